"use strict";
// Draws the charts of a report and sorts its table. The figures come from the record in the page;
// what was worked out in Python (labels, the Pareto front) from the block beside it.
// Globals: d3 and Plot, from the two libraries above.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const record = read("record");
  const extra = read("extra");
  const byId = (id) => document.getElementById(id);
  const TONES = Array.from({ length: 8 }, (_, n) => `var(--s${n})`);
  const DASHES = ["none", "7 4", "2 3", "9 3 2 3"];

  // --- charts redraw when their width changes, or they come into sight ------------------------

  const redraws = [];
  function chart(id, draw) {
    const box = byId(id);
    if (!box) return () => {};
    let last = 0;
    const redraw = () => {
      const width = Math.floor(box.clientWidth - 20);
      if (width < 60) return;
      last = width;
      box.replaceChildren(draw(width));
      asOnePicture(box);
    };
    // What the pointer brings up is drawn anew, with Plot's labels.
    new MutationObserver(() => asOnePicture(box)).observe(box, { childList: true, subtree: true });
    redraws.push(() => Math.floor(box.clientWidth - 20) !== last && redraw());
    redraw();
    return redraw;
  }
  addEventListener("resize", () => redraws.forEach((f) => f()));
  addEventListener("toggle", () => redraws.forEach((f) => f()), true);

  // A chart is one picture with one name; its figures stand in the tables. Plot labels groups that
  // have no role, which no screen reader may be given.
  function asOnePicture(box) {
    for (const part of box.querySelectorAll("svg [aria-label]")) {
      part.dataset.mark = part.getAttribute("aria-label");
      part.removeAttribute("aria-label");
    }
    for (const svg of box.querySelectorAll("svg")) {
      if (svg.closest("[class*=swatches]")) svg.setAttribute("aria-hidden", "true");
      else {
        svg.setAttribute("role", "img");
        svg.setAttribute("aria-label", box.dataset.name);
      }
    }
  }

  const style = { background: "transparent", color: "currentColor", fontSize: "13px" };
  const tip = { fill: "var(--paper)", stroke: "var(--muted)" };
  const short = (x) => (x == null ? "-" : d3.format(".4~r")(x));

  // --- quality against latency ---------------------------------------------------------------

  const points = extra.points;
  const runtimes = [...new Set(points.map((p) => p.runtime))];
  const scales = {
    color: { domain: runtimes, range: runtimes.map((_, n) => TONES[n % 8]) },
    symbol: { domain: runtimes, legend: runtimes.length > 1 },
  };
  const metricPicker = byId("pareto-metric");

  function pareto(width) {
    const metric = extra.metrics.find((m) => m.key === metricPicker.value);
    const shown = points
      .filter((p) => p.p50 != null && p.quality[metric.key] != null)
      .map((p) => ({ ...p, v: p.quality[metric.key], front: extra.fronts[metric.key].includes(p.key) }));
    const front = extra.fronts[metric.key].map((key) => shown.find((p) => p.key === key));
    const lines = extra.interpolations
      .filter((q) => q.quality[metric.key] != null)
      .map((q) => ({ label: q.label, v: q.quality[metric.key] }));
    const slowest = d3.max(shown, (p) => p.p50);
    const labelled = shown.length <= 6 ? shown : shown.filter((p) => p.front);
    const ys = [...shown, ...lines].map((d) => d.v);
    const pad = (d3.max(ys) - d3.min(ys)) * 0.12 || Math.abs(ys[0]) * 0.01;
    const reach = d3.extent(shown, (p) => p.p50);
    const plot = Plot.plot({
      width, height: Math.max(320, Math.min(460, width * 0.5)), style,
      marginLeft: 58, marginRight: 16, marginBottom: 44, marginTop: 28,
      x: { type: "log", domain: [reach[0] / 1.25, reach[1] * (width < 600 ? 2 : 1.4)], grid: true,
        label: "p50 of a step, ms (logarithmic) →", tickFormat: "~g", ticks: width < 600 ? 3 : 6 },
      y: { domain: [d3.min(ys) - pad, d3.max(ys) + pad], reverse: metric.better === "low", grid: true,
        label: `↑ ${metric.title}${metric.better === "low" ? " (lower is better, so turned over)" : ""}`,
        ticks: 6 },
      ...scales,
      marks: [
        Plot.ruleY(lines, { y: "v", stroke: "var(--muted)", strokeDasharray: "3 4" }),
        Plot.line(front.length ? [...front, { p50: slowest * 1.3, v: front.at(-1).v }] : [], {
          x: "p50", y: "v", curve: "step-after", stroke: "currentColor", strokeDasharray: "6 3",
          strokeWidth: 1.5 }),
        Plot.ruleY(shown, { x1: "low", x2: "high", y: "v", stroke: "runtime", strokeWidth: 1.5, clip: true }),
        Plot.dot(shown, { x: "p50", y: "v", symbol: "runtime", stroke: "runtime", r: 6,
          fill: (p) => (p.front ? "var(--ink)" : "var(--panel)"), strokeWidth: 2,
          ariaLabel: (p) => `${p.label}: ${short(p.p50)} ms, ${short(p.v)}` }),
        Plot.tip(shown, Plot.pointer({ x: "p50", y: "v", ...tip, title: (p) =>
          `${p.label}\n${short(p.p50)} ms (${short(p.low)} to ${short(p.high)})\n${metric.title} ${short(p.v)}` +
          (p.front ? "\non the Pareto front" : "") })),
      ],
    });
    return name(plot, [
      ...shown.map((p) => ({ x: p.p50, y: p.v, text: labelled.includes(p) ? p.short : "" })),
      ...lines.map((q) => ({ y: q.v, text: q.label })),
    ], width);
  }

  // Labels beside their marks, or along their line where they have no x: each at the first place
  // where it covers nothing; none where there is no such place (the tip and the tables have it).
  const ruler = document.createElement("canvas").getContext("2d");
  function name(plot, items, width, most = 8) {
    const svg = d3.select(plot.tagName === "svg" ? plot : plot.querySelector(":scope > svg"));
    const sx = plot.scale("x"), sy = plot.scale("y");
    const [from, to] = sx.range, [low, high] = d3.extent(sy.range);
    ruler.font = `13px ${getComputedStyle(document.body).fontFamily}`;
    const marks = items.map((one) => ({ ...one, py: sy.apply(one.y), px: one.x == null ? null : sx.apply(one.x) }));
    const taken = marks.filter((m) => m.px != null).map((m) => [m.px - 8, m.py - 8, m.px + 8, m.py + 8]);
    const lines = marks.filter((m) => m.px == null).map((m) => [from, m.py - 1, to, m.py + 1]);
    const meets = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
    for (const m of marks.filter((one) => one.text)) {
      const wide = ruler.measureText(m.text).width + 2;
      const places = m.px == null
        ? [to - wide, from + 4, (from + to - wide) / 2].flatMap((left) => [[left, m.py - 6], [left, m.py + 15]])
        : [[12, 4], [-12 - wide, 4], [10, -12], [10, 20], [-10 - wide, -12], [-10 - wide, 20],
          [-wide / 2, -14], [-wide / 2, 24]].slice(0, most).map(([dx, dy]) => [m.px + dx, m.py + dy]);
      for (const [left, base] of places) {
        const box = [left, base - 13, left + wide, base + 4];
        if (left < from + 2 || box[2] > width - 2 || box[1] < low - 14 || box[3] > high + 2) continue;
        if ([...taken, ...(m.px == null ? lines : [])].some((other) => meets(box, other))) continue;
        taken.push(box);
        // A line leads from a mark to a label that is not beside it.
        const end = [Math.max(left, Math.min(m.px, left + wide)), Math.max(base - 12, Math.min(m.py, base + 3))];
        if (m.px != null && Math.hypot(end[0] - m.px, end[1] - m.py) > 13) {
          svg.append("line").attr("x1", m.px).attr("y1", m.py).attr("x2", end[0]).attr("y2", end[1])
            .style("stroke", "var(--muted)");
        }
        svg.append("text").attr("x", left).attr("y", base).text(m.text)
          .style("fill", m.px == null ? "var(--muted)" : "currentColor").style("stroke", "var(--panel)")
          .style("stroke-width", 4).style("paint-order", "stroke").style("font-size", "13px")
          .style("text-anchor", "start");
        break;
      }
    }
    return plot;
  }
  if (metricPicker && points.length) metricPicker.addEventListener("change", chart("pareto", pareto));

  // --- latency distributions -----------------------------------------------------------------

  const timed = points.filter((p) => p.own && p.p50 != null).sort((a, b) => a.p50 - b.p50);
  const DRAWN = 600; // lines for one row; more would only slow the page down
  const samples = timed.flatMap((p) => {
    const all = record.rows[p.index].latency.host.blocks.flat().sort(d3.ascending);
    const every = Math.ceil(all.length / (DRAWN - 100));
    const kept = all.length <= DRAWN ? all : all.filter((_, n) => n % every === 0 || n >= all.length - 100);
    return kept.map((ms) => ({ key: p.key, ms }));
  });
  const MARKS = ["p50", "p90", "p99"];

  chart("spread", (width) => {
    const wide = d3.extent(samples, (s) => s.ms);
    const type = wide[1] / wide[0] > 6 ? "log" : "linear";
    const marks = timed.flatMap((p) => MARKS.map((name) => ({ key: p.key, name, ms: p[name] })));
    return Plot.plot({
      width, height: 58 + 50 * timed.length, style,
      marginLeft: 10, marginRight: 24, marginTop: 48, marginBottom: 10,
      x: { type, grid: true, axis: "top", tickFormat: "~g", ticks: width < 600 ? 4 : 8,
        label: `ms a step${type === "log" ? " (logarithmic)" : ""} →`, labelOffset: 40 },
      y: { domain: timed.map((p) => p.key), axis: null, padding: 0.3 },
      color: { domain: MARKS, range: ["var(--s0)", "var(--s1)", "var(--s3)"] },
      symbol: { domain: MARKS, range: ["circle", "diamond", "triangle"], legend: true },
      marks: [
        Plot.text(timed, { y: "key", text: "label", frameAnchor: "left", dy: -14, textAnchor: "start",
          fontWeight: 600, stroke: "var(--panel)", strokeWidth: 4, fill: "currentColor" }),
        Plot.tickX(samples, { x: "ms", y: "key", stroke: "currentColor", strokeOpacity: 0.35,
          insetTop: 11, insetBottom: -3 }),
        Plot.dot(marks, { x: "ms", y: "key", symbol: "name", stroke: "name", fill: "var(--paper)", r: 5,
          strokeWidth: 2, dy: 7,
          ariaLabel: (d) => `${d.key}: ${d.name} ${short(d.ms)} ms` }),
        Plot.tip(marks, Plot.pointer({ x: "ms", y: "key", dy: 7, ...tip,
          title: (d) => `${d.key}\n${d.name} ${short(d.ms)} ms` })),
      ],
    });
  });

  // --- roofline ------------------------------------------------------------------------------

  const roofs = points.filter((p) => p.own && p.roof && p.p50 != null).map((p) => ({
    ...p, x: (2 * p.roof.macs) / p.roof.bytes, y: (2 * p.roof.macs) / p.p50 / 1e6,
    share: p.roof.share,
  }));

  chart("roofline", (width) => {
    const pairs = d3.groups(roofs, (p) => `${p.roof.gemm}/${p.roof.copy}`).map(([, some]) => some[0].roof);
    const xs = d3.extent(roofs, (p) => p.x);
    const reach = [xs[0] / 4, xs[1] * 4];
    const lines = pairs.map((roof, n) => {
      const gemm = record.ceilings[roof.gemm], copy = record.ceilings[roof.copy];
      const top = (2 * gemm.value) / 1e9, slope = copy.value / 1e9;
      const knee = top / slope;
      const xs = [reach[0], ...(knee > reach[0] && knee < reach[1] ? [knee] : []), reach[1]];
      return { n, name: `${gemm.precision} ${gemm.library}`,
        points: xs.map((x) => ({ x, y: Math.min(top, x * slope) })) };
    });
    const plot = Plot.plot({
      width, height: Math.max(320, Math.min(440, width * 0.45)), style,
      marginLeft: 58, marginRight: 16, marginBottom: 44, marginTop: 28,
      x: { type: "log", domain: reach, grid: true, tickFormat: "~s", ticks: width < 600 ? 3 : 6,
        label: "floating-point operations for each byte moved →" },
      y: { type: "log", grid: true, tickFormat: "~s", ticks: 4, label: "↑ GFLOP/s", nice: true },
      ...scales,
      marks: [
        ...lines.map((line) => Plot.line(line.points, { x: "x", y: "y", stroke: "currentColor",
          strokeWidth: 2, strokeDasharray: DASHES[line.n % 4] })),
        Plot.dot(roofs, { x: "x", y: "y", symbol: "runtime", stroke: "runtime", fill: "var(--panel)",
          r: 6, strokeWidth: 2, ariaLabel: (p) => `${p.label}: ${d3.format(".0%")(p.share)} of the limit` }),
        Plot.tip(roofs, Plot.pointer({ x: "x", y: "y", ...tip,
          title: (p) => `${p.label}\n${short(p.y)} GFLOP/s\n${d3.format(".1%")(p.share)} of the limit (${p.roof.bound})` })),
      ],
    });
    return name(plot, [
      ...roofs.map((p) => ({ x: p.x, y: p.y, text: `${p.short} ${d3.format(".0%")(p.share)}` })),
      ...lines.map((line) => ({ y: line.points.at(-1).y, text: line.name })),
    ], width, 2);
  });

  // --- curves with a legend that hides and shows them -----------------------------------------

  const tone = (n) => TONES[n % 8];
  const dash = (n) => DASHES[Math.floor(n / 8 + n) % 4];

  function legend(id, series, redraw, hidden) {
    const box = byId(id);
    const checks = [];
    if (series.length > 4) {
      for (const [text, on] of [["All", true], ["None", false]]) {
        const button = Object.assign(document.createElement("button"), { type: "button", className: "button", textContent: text });
        button.addEventListener("click", () => {
          checks.forEach((check, n) => { check.checked = on; on ? hidden.delete(n) : hidden.add(n); });
          redraw();
        });
        box.append(button);
      }
    }
    series.forEach((one, n) => {
      const label = document.createElement("label");
      const check = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
      checks.push(check);
      check.addEventListener("change", () => {
        check.checked ? hidden.delete(n) : hidden.add(n);
        redraw();
      });
      const line = d3.create("svg").attr("width", 34).attr("height", 12).attr("aria-hidden", "true");
      line.append("line").attr("x1", 1).attr("x2", 33).attr("y1", 6).attr("y2", 6)
        .style("stroke", tone(n)).attr("stroke-width", 2.5).attr("stroke-dasharray", dash(n));
      label.append(check, line.node(), one.label);
      box.append(label);
    });
  }

  function curves(width, series, hidden, options) {
    const shown = series.map((one, n) => ({ ...one, n })).filter((one) => !hidden.has(one.n));
    const all = shown.flatMap((one) => one.points.map((p) => ({ ...p, label: one.label })));
    // Frames are whole: between two of them there is no tick.
    const last = d3.max(all, (p) => p.x) ?? 0, first = d3.min(all, (p) => p.x) ?? 0;
    const ticks = Math.max(1, Math.min(width < 600 ? 5 : 10, last - first));
    return Plot.plot({
      width, height: Math.max(260, Math.min(360, width * 0.38)), style,
      marginLeft: 58, marginRight: 16, marginBottom: 44, marginTop: 28,
      x: { label: options.x, ticks, tickFormat: "d" },
      y: { label: options.y, grid: true, ticks: 6, reverse: !!options.reverse, nice: true },
      marks: [
        ...(options.marks || []),
        ...shown.map((one) => Plot.line(one.points, { x: "x", y: "y", stroke: tone(one.n),
          strokeWidth: 2, strokeDasharray: dash(one.n), ariaLabel: () => one.label })),
        Plot.tip(all, Plot.pointer({ x: "x", y: "y", ...tip,
          title: (p) => `${p.label}\n${options.at} ${p.x}: ${short(p.y)}` })),
      ],
    });
  }

  const perFrame = byId("frames-metric");
  if (perFrame && extra.series.length) {
    const hidden = new Set();
    const draw = (width) => {
      const metric = extra.metrics.find((m) => m.key === perFrame.value);
      const series = extra.series.map((one) => {
        const values = one.values[metric.key] || [];
        const first = one.first + (one.frames - values.length); // values of pairs begin a frame later
        return { label: one.label, points: values.map((y, n) => ({ x: first + n, y })).filter((p) => p.y != null) };
      });
      return curves(width, series, hidden, { x: "frame →", at: "frame", reverse: metric.better === "low",
        y: `↑ ${metric.title}${metric.better === "low" ? " (lower is better, so turned over)" : ""}` });
    };
    const redraw = chart("frames", draw);
    perFrame.addEventListener("change", redraw);
    legend("frames-legend", extra.series, redraw, hidden);
  }

  const coldMetric = byId("cold-metric");
  if (coldMetric) {
    const hidden = new Set();
    const redraw = chart("cold", (width) => {
      const metric = coldMetric.value;
      const series = extra.cold.map((one) => ({ ...one, points: one.missing[metric].map((y, x) => ({ x, y })) }));
      const least = metric === "psnr" ? [0.05] : [];
      return curves(width, series, hidden, {
        x: "frames since the reset →", at: "after",
        y: metric === "psnr" ? "↑ PSNR missing, dB" : "↑ LPIPS too high",
        marks: [
          Plot.ruleY([0], { stroke: "currentColor" }),
          Plot.ruleY(least, { stroke: "var(--muted)", strokeDasharray: "3 4" }),
          Plot.text(least, { y: (d) => d, text: () => "0.05 dB", frameAnchor: "right", textAnchor: "end",
            dy: -8, fill: "var(--muted)" }),
        ],
      });
    });
    coldMetric.addEventListener("change", redraw);
    legend("cold-legend", extra.cold, redraw, hidden);
  }

  // --- sorting -------------------------------------------------------------------------------

  for (const table of document.querySelectorAll("table.figures")) {
    const body = table.tBodies[0];
    const heads = [...table.querySelectorAll("th[data-key]")];
    heads.forEach((head) => {
      head.setAttribute("aria-sort", "none");
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = head.dataset.key;
        const value = (row) => {
          if (key === "name") return row.dataset.row;
          const text = row.querySelector(`td[data-key="${key}"]`).dataset.value;
          return text === "" ? undefined : Number(text);
        };
        const order = up ? d3.ascending : d3.descending; // both put what is undefined last
        [...body.rows].sort((a, b) => order(value(a), value(b))).forEach((row) => body.append(row));
      });
    });
  }

  // --- the record ----------------------------------------------------------------------------

  const save = byId("save");
  if (save) {
    const text = JSON.stringify(record, null, 2) + "\n";
    save.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  }
})();
