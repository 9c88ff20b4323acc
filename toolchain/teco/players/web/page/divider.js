// @ts-check
/** The line between original and enlarged: dragged, or moved by keys as a slider is. */

/** Percent by a key, and by a key with Shift or PageUp and PageDown. */
const STEP = 2;
const LEAP = 10;

/**
 * @param {HTMLElement} handle with the role slider
 * @param {HTMLElement} area whose width the handle moves over; gets the custom property --split
 */
export function divider(handle, area) {
  let place = 50;

  /** @param {number} percent */
  const move = (percent) => {
    place = Math.min(100, Math.max(0, percent));
    area.style.setProperty("--split", `${place}%`);
    handle.setAttribute("aria-valuenow", String(Math.round(place)));
    handle.setAttribute("aria-valuetext", `${Math.round(place)} % original`);
  };

  /** @param {PointerEvent} event */
  const follow = (event) => {
    const { left, width } = area.getBoundingClientRect();
    if (width) move(((event.clientX - left) / width) * 100);
  };
  handle.addEventListener("pointerdown", (event) => {
    handle.setPointerCapture(event.pointerId);
    follow(event);
  });
  handle.addEventListener("pointermove", (event) => {
    if (handle.hasPointerCapture(event.pointerId)) follow(event);
  });

  handle.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? LEAP : STEP;
    const places = /** @type {Record<string, number>} */ ({
      ArrowLeft: place - step, ArrowDown: place - step,
      ArrowRight: place + step, ArrowUp: place + step,
      PageDown: place - LEAP, PageUp: place + LEAP, Home: 0, End: 100,
    });
    const to = places[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    move(to);
  });
  move(place);
}
