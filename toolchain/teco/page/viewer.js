"use strict";
// The viewer of a page: two or three pictures in one canvas, dividers between them, a magnifier.
// What it shows is the block with the id "shown"; see teco.page.viewer.
(() => {
  const byId = (id) => document.getElementById(id);
  const block = byId("shown");
  if (!block) return;
  const shown = JSON.parse(block.textContent);
  const view = byId("view"), pen = view.getContext("2d");
  const dividers = ["first", "second"].slice(0, shown.panes.length - 1);
  const pickers = ["frame", "zoom", ...shown.panes.filter((p) => !p.method).map((p) => p.name)];
  const control = Object.fromEntries([...pickers, ...dividers].map((name) => [name, byId(`view-${name}`)]));
  const cache = new Map();
  let spot = { x: Math.round(shown.width / 2), y: Math.round(shown.height / 2) };
  view.width = shown.width;
  view.height = shown.height;

  function imageOf(method, n) {
    const name = `${method}/${n}`;
    if (!cache.has(name)) {
      const image = new Image();
      image.addEventListener("load", paint);
      image.src = shown.images[method][n];
      cache.set(name, image);
    }
    return cache.get(name);
  }
  const ready = (image) => image.complete && image.naturalWidth > 0;
  const caption = (method) => shown.labels[method] || method;

  function paint() {
    const n = Number(control.frame.value);
    const methods = shown.panes.map((pane) => pane.method || control[pane.name].value);
    const images = methods.map((method) => imageOf(method, n));
    const edges = [0, ...dividers.map((name) => Number(control[name].value)), 100]
      .map((share) => Math.round((share / 100) * shown.width));
    if (!images.every(ready)) return; // its load paints; until then the last frame stays
    images.forEach((image, i) => {
      const left = edges[i], width = edges[i + 1] - left;
      if (width > 0) {
        pen.drawImage(image, left, 0, width, shown.height, left, 0, width, shown.height);
      }
    });
    const unit = shown.width / Math.max(1, view.clientWidth);
    for (const edge of edges.slice(1, -1)) {
      if (edge > 0 && edge < shown.width) {
        pen.fillStyle = "#000";
        pen.fillRect(edge - 1.5 * unit, 0, 3 * unit, shown.height);
        pen.fillStyle = "#fff";
        pen.fillRect(edge - 0.75 * unit, 0, 1.5 * unit, shown.height);
      }
    }
    tags(methods, edges, unit);
    const side = control.zoom.value === "2" ? 80 : control.zoom.value === "4" ? 40 : 20;
    pen.lineWidth = 3 * unit;
    pen.strokeStyle = "#000";
    pen.strokeRect(spot.x - side / 2, spot.y - side / 2, side, side);
    pen.lineWidth = 1.5 * unit;
    pen.strokeStyle = "#fff";
    pen.strokeRect(spot.x - side / 2, spot.y - side / 2, side, side);
    images.forEach((image, i) => zoomed(byId(`zoom-${i}`), image, side, methods[i], n));
  }

  function tags(methods, edges, unit) {
    pen.font = `600 ${13 * unit}px system-ui, sans-serif`;
    pen.textBaseline = "middle";
    methods.forEach((method, i) => {
      const room = edges[i + 1] - edges[i] - 12 * unit;
      let text = caption(method);
      while (text.length > 3 && pen.measureText(text).width > room) text = text.slice(0, -2).trimEnd() + "…";
      const wide = pen.measureText(text).width;
      if (wide > room || room <= 0) return;
      pen.fillStyle = "rgba(0, 0, 0, 0.75)";
      pen.fillRect(edges[i] + 4 * unit, 4 * unit, wide + 8 * unit, 22 * unit);
      pen.fillStyle = "#fff";
      pen.fillText(text, edges[i] + 8 * unit, 15 * unit);
    });
  }

  function zoomed(canvas, image, side, method, n) {
    const brush = canvas.getContext("2d");
    canvas.width = canvas.height = 240;
    brush.imageSmoothingEnabled = false;
    brush.drawImage(image, spot.x - side / 2, spot.y - side / 2, side, side, 0, 0, 240, 240);
    const score = (shown.psnr[method] || [])[n];
    canvas.nextElementSibling.textContent =
      caption(method) + (score == null ? "" : `, this frame ${score.toFixed(2)} dB`);
  }

  function move(x, y) {
    spot = { x: Math.min(Math.max(Math.round(x), 0), shown.width), y: Math.min(Math.max(Math.round(y), 0), shown.height) };
    paint();
  }
  const where = (event) => {
    const box = view.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * shown.width, ((event.clientY - box.top) / box.height) * shown.height];
  };
  let dragged = null;
  view.addEventListener("pointerdown", (event) => {
    const [x] = where(event), near = (12 * shown.width) / view.clientWidth;
    const far = (name) => Math.abs((control[name].value / 100) * shown.width - x);
    const name = dividers.reduce((a, b) => (far(a) < far(b) ? a : b));
    dragged = far(name) <= near ? name : null;
    if (dragged) view.setPointerCapture(event.pointerId);
    else move(...where(event));
  });
  view.addEventListener("pointermove", (event) => {
    if (dragged) slide(dragged, (where(event)[0] / shown.width) * 100);
    else if (event.pointerType === "mouse") move(...where(event));
  });
  view.addEventListener("pointerup", () => { dragged = null; });
  view.addEventListener("keydown", (event) => {
    const by = event.shiftKey ? 32 : 4;
    const way = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] }[event.key];
    if (!way) return;
    event.preventDefault();
    move(spot.x + way[0], spot.y + way[1]);
  });

  // A divider pushes the others: they never cross.
  function slide(name, share) {
    control[name].value = share;
    const here = Number(control[name].value), at = dividers.indexOf(name);
    dividers.forEach((other, n) => {
      const there = Number(control[other].value);
      if (n < at ? there > here : there < here) control[other].value = here;
    });
    paint();
  }
  for (const name of dividers) {
    control[name].addEventListener("input", () => slide(name, control[name].value));
  }
  for (const name of pickers) control[name].addEventListener("change", paint);
  addEventListener("resize", paint);
  paint();
})();
