// @ts-check
/// <reference lib="webworker" />
/**
 * Keeps whatever the page has fetched, for when there is no network; asks the network first, so that
 * nothing is ever old. And where a server sends no COOP and COEP headers, it adds them: with these a
 * page may use threads.
 */
const worker = /** @type {ServiceWorkerGlobalScope} */ (/** @type {unknown} */ (self));
const KEPT = "teco-player";

worker.addEventListener("install", (event) => {
  event.waitUntil((async () => {
    const cache = await caches.open(KEPT);
    const answer = await fetch("site.json", { cache: "no-cache" });
    const { shell } = await answer.json();
    await cache.addAll(["./", "site.json", ...shell]);
    await worker.skipWaiting();
  })());
});

worker.addEventListener("activate", (event) => event.waitUntil(worker.clients.claim()));

worker.addEventListener("fetch", (event) => {
  const { request } = event;
  const own = new URL(request.url).origin === worker.location.origin;
  if (request.method === "GET" && own) event.respondWith(answer(request));
});

/** @param {Request} request @returns {Promise<Response>} */
async function answer(request) {
  const cache = await caches.open(KEPT);
  let fresh;
  try {
    fresh = isolated(await fetch(request));
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) return isolated(kept);
    throw error;
  }
  if (fresh.status === 200) {
    // Where there is no room to keep it, the page works all the same, only not offline.
    await cache.put(request, fresh.clone()).catch(() => {});
  }
  return fresh;
}

/** @param {Response} response @returns {Response} */
function isolated(response) {
  if (!response.status) return response; // opaque: nothing can be said of it
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  const { status, statusText, body } = response;
  return new Response(body, { status, statusText, headers });
}
