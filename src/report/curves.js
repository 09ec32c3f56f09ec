// Lets a reader look into the curves of a report: zoom, values under the pointer or the arrow keys, a logarithmic scale, smoothing, tokens
// instead of steps. Without it the drawings that the page holds are shown. Numbers come from the attribute data-curves; names are set as text.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const MARGIN = { left: 64, right: 12, top: 12, bottom: 26 };
  // What the reader has chosen, by the id of the figure: a page that grows replaces its figures.
  const chosen = new Map();

  const element = (name, attributes = {}, text = null) => {
    const made = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    return made;
  };

  const UNITS = ["B", "kB", "MB", "GB", "TB"];
  function number(value, isBytes = false) {
    if (isBytes && value >= 0) {
      let unit = 0;
      while (value >= 1000 && unit + 1 < UNITS.length) { value /= 1000; unit += 1; }
      return `${Number(value.toPrecision(3))} ${UNITS[unit]}`;
    }
    const size = Math.abs(value);
    if (size >= 1e15 || (size < 1e-3 && size > 0)) return value.toExponential(3).replace(/\.?0+e/, "e");
    return Number(value.toPrecision(size >= 1e4 ? Math.ceil(Math.log10(size + 1)) : 4)).toLocaleString("en-US", { maximumFractionDigits: 6 });
  }

  // Round values within a range.
  function ticks(low, high, count) {
    const rough = (high - low) / count;
    if (!(rough > 0)) return [low];
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough * 0.999);
    const made = [];
    for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at += 1) made.push(at * step);
    return made;
  }

  // An exponential moving average, corrected for its beginning as Adam's moments are.
  function smoothed(values, weight) {
    let mean = 0;
    let known = 1;
    return values.map((value) => {
      mean = weight * mean + (1 - weight) * value;
      known *= weight;
      return mean / (1 - known);
    });
  }

  function plot(figure) {
    const { curves, isBytes } = JSON.parse(figure.dataset.curves);
    const hasTokens = curves.every((curve) => curve.tokens);
    const canBeLog = curves.every((curve) => (curve.low ?? curve.mean).every((value) => value > 0));
    const state = chosen.get(figure.id) ?? { log: false, smooth: 0, tokens: false, range: null };
    chosen.set(figure.id, state);
    const at = (curve) => (state.tokens && hasTokens ? curve.tokens : curve.steps);

    const controls = element("div", { class: "controls" });
    const readout = element("output", { class: "readout soft", for: figure.id });
    const frame = element("div", { class: "plot-frame", tabindex: "0", role: "group", "aria-label": `${figure.dataset.title}: arrow keys show values, plus and minus zoom` });
    const drawing = element("svg:svg", { class: "plotted", role: "img", "aria-label": figure.querySelector("svg")?.getAttribute("aria-label") ?? figure.dataset.title });
    frame.append(drawing);

    const whole = () => {
      const all = curves.flatMap((curve) => [at(curve)[0], at(curve).at(-1)]);
      return [Math.min(...all), Math.max(...all)];
    };
    const range = () => state.range ?? whole();

    function box(name, label, isOn, change) {
      const made = element("label");
      const input = element("input", { type: "checkbox", id: `${figure.id}-${name}` });
      input.checked = isOn;
      input.addEventListener("change", () => { change(input.checked); draw(); });
      made.append(input, ` ${label}`);
      controls.append(made);
    }
    function button(label, title, act) {
      const made = element("button", { type: "button", title, "aria-label": title }, label);
      made.addEventListener("click", () => { act(); draw(); });
      controls.append(made);
    }
    if (canBeLog) box("by-log", "logarithmic", state.log, (on) => { state.log = on; });
    if (hasTokens) box("by-tokens", "over tokens", state.tokens, (on) => { state.tokens = on; state.range = null; });
    const label = element("label", {}, "smoothing ");
    const slider = element("input", { type: "range", min: "0", max: "0.99", step: "0.01", value: String(state.smooth), id: `${figure.id}-smooth` });
    slider.addEventListener("input", () => { state.smooth = Number(slider.value); draw(); });
    label.append(slider);
    controls.append(label);
    const zoom = (factor, centre = null) => {
      const [first, last] = range();
      const middle = centre ?? (first + last) / 2;
      const [low, high] = whole();
      const next = [Math.max(low, middle - (middle - first) * factor), Math.min(high, middle + (last - middle) * factor)];
      if (next[1] > next[0]) state.range = next[0] <= low && next[1] >= high ? null : next;
    };
    button("+", "Zoom in", () => zoom(0.5));
    button("−", "Zoom out", () => zoom(2));
    button("whole", "Show the whole curve", () => { state.range = null; });

    let place = null; // of the crosshair: a value of x
    let scale = null;

    function draw() {
      const width = Math.max(240, frame.clientWidth);
      const height = figure.classList.contains("large") ? 300 : 200;
      drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
      drawing.setAttribute("height", height);
      drawing.replaceChildren();
      const [first, last] = range();
      const shown = curves.map((curve) => {
        const xs = at(curve);
        const means = state.smooth > 0 ? smoothed(curve.mean, state.smooth) : curve.mean;
        const places = xs.map((x, i) => i).filter((i) => xs[i] >= first && xs[i] <= last);
        return { curve, xs, means, places };
      });
      const values = shown.flatMap(({ curve, means, places }) => places.flatMap((i) => [means[i], (curve.low ?? curve.mean)[i], (curve.high ?? curve.mean)[i]]));
      if (!values.length) return;
      const isLog = state.log && canBeLog;
      const of = (value) => (isLog ? Math.log10(Math.max(value, 1e-300)) : value);
      let low = values.reduce((a, b) => Math.min(a, b), Infinity);
      let high = values.reduce((a, b) => Math.max(a, b), -Infinity);
      [low, high] = [of(low), of(high)];
      // Small changes look small, as in the page's own drawings.
      const missing = isLog ? 0.1 - (high - low) : 0.1 * Math.max(Math.abs(low), Math.abs(high)) - (high - low);
      if (missing > 0) { low -= missing / 2; high += missing / 2; }
      if (!(high > low)) { low -= 1; high += 1; }
      const right = width - MARGIN.right;
      const bottom = height - MARGIN.bottom;
      const x = (value) => MARGIN.left + (last > first ? (value - first) / (last - first) : 0.5) * (right - MARGIN.left);
      const y = (value) => bottom - ((of(value) - low) / (high - low)) * (bottom - MARGIN.top);
      scale = { x, shown, first, last, right };
      const rows = isLog ? (high - low > 1 ? ticks(Math.ceil(low), high, 5).filter(Number.isInteger).map((power) => 10 ** power) : ticks(10 ** low, 10 ** high, 4)) : ticks(low, high, 5);
      for (const value of rows) {
        drawing.append(element("svg:path", { class: "grid", d: `M${MARGIN.left} ${y(value)}H${right}` }));
        drawing.append(element("svg:text", { class: "y", x: MARGIN.left - 6, y: y(value) + 4 }, number(value, isBytes)));
      }
      for (const value of ticks(first, last, Math.max(2, Math.floor(width / 80)))) {
        // At the right edge a number has no room for its other half.
        const text = number(value);
        drawing.append(element("svg:text", { class: "x", x: Math.min(x(value), width - 3.5 * text.length), y: bottom + 18 }, text));
      }
      drawing.append(element("svg:text", { x: 0, y: bottom + 18 }, state.tokens && hasTokens ? "tokens" : "step"));
      drawing.append(element("svg:path", { class: "axis", d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${right}` }));
      shown.forEach(({ curve, xs, means, places }, line) => {
        if (curve.low && places.length) {
          const there = places.map((i) => `${x(xs[i]).toFixed(1)} ${y(curve.high[i]).toFixed(1)}`);
          const back = places.toReversed().map((i) => `${x(xs[i]).toFixed(1)} ${y(curve.low[i]).toFixed(1)}`);
          drawing.append(element("svg:path", { class: `band s${line}`, d: `M${[...there, ...back].join("L")}Z` }));
        }
        const path = (all) => `M${places.map((i) => `${x(xs[i]).toFixed(1)} ${y(all[i]).toFixed(1)}`).join("L")}`;
        if (!places.length) return;
        if (state.smooth > 0) drawing.append(element("svg:path", { class: `line faint s${line}`, d: path(curve.mean) }));
        drawing.append(element("svg:path", { class: `line s${line}`, d: path(means) }));
        if (places.length <= 40) {
          for (const i of places) drawing.append(element("svg:circle", { class: `dot s${line}`, cx: x(xs[i]), cy: y(means[i]), r: 2.5 }));
        }
      });
      show();
    }

    // The values at the crosshair.
    function show() {
      drawing.querySelector(".cross")?.remove();
      if (place === null || !scale) { readout.textContent = ""; return; }
      const parts = [];
      let found = null;
      for (const { curve, xs, means, places } of scale.shown) {
        if (!places.length) continue;
        const near = places.reduce((best, i) => (Math.abs(xs[i] - place) < Math.abs(xs[best] - place) ? i : best), places[0]);
        if (found === null) found = [xs[near], curve.steps[near], curve.tokens?.[near]];
        const spread = curve.low && curve.low[near] !== curve.high[near] ? ` (${number(curve.low[near], isBytes)} to ${number(curve.high[near], isBytes)})` : "";
        parts.push(`${curve.name} ${number(means[near], isBytes)}${spread}`);
      }
      if (found === null) return;
      const at = scale.x(found[0]);
      drawing.append(element("svg:path", { class: "cross", d: `M${at} ${MARGIN.top}V${drawing.viewBox.baseVal.height - MARGIN.bottom}` }));
      readout.textContent = `step ${number(found[1])}${found[2] === undefined ? "" : `, ${number(found[2])} tokens`}: ${parts.join(", ")}`;
    }

    const valueAt = (event) => {
      const about = drawing.getBoundingClientRect();
      const position = (event.clientX - about.left) * (drawing.viewBox.baseVal.width / about.width);
      const { first, last, right } = scale;
      return first + ((position - MARGIN.left) / (right - MARGIN.left)) * (last - first);
    };
    let begun = null;
    drawing.addEventListener("pointerdown", (event) => { if (scale && event.pointerType !== "touch") begun = valueAt(event); });
    drawing.addEventListener("pointermove", (event) => {
      if (!scale) return;
      place = Math.min(Math.max(valueAt(event), scale.first), scale.last);
      show();
      drawing.querySelector(".chosen")?.remove();
      if (begun !== null) {
        const [from, to] = [begun, place].sort((a, b) => a - b).map(scale.x);
        drawing.append(element("svg:rect", { class: "chosen", x: from, y: MARGIN.top, width: Math.max(0, to - from), height: drawing.viewBox.baseVal.height - MARGIN.top - MARGIN.bottom }));
      }
    });
    drawing.addEventListener("pointerup", (event) => {
      if (begun === null || !scale) return;
      const [from, to] = [begun, Math.min(Math.max(valueAt(event), scale.first), scale.last)].sort((a, b) => a - b);
      begun = null;
      if (to - from > (scale.last - scale.first) / 100) state.range = [from, to];
      draw();
    });
    drawing.addEventListener("pointerleave", () => { begun = null; place = null; drawing.querySelector(".chosen")?.remove(); show(); });
    drawing.addEventListener("dblclick", () => { state.range = null; draw(); });
    frame.addEventListener("keydown", (event) => {
      if (!scale) return;
      const [first, last] = range();
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (move) {
        place = Math.min(Math.max((place ?? (move > 0 ? first : last)) + (move * (last - first)) / 50, first), last);
        show();
      } else if (event.key === "+" || event.key === "-") {
        zoom(event.key === "+" ? 0.5 : 2, place);
        draw();
      } else if (event.key === "Escape") {
        state.range = null;
        draw();
      } else return;
      event.preventDefault();
    });

    figure.classList.add("drawn");
    figure.append(controls, frame, readout);
    new ResizeObserver(draw).observe(frame);
    draw();
  }

  function plotAll(root) {
    for (const figure of root.querySelectorAll("figure[data-curves]")) if (!figure.classList.contains("drawn")) plot(figure);
  }
  document.addEventListener("replaced", (event) => plotAll(event.target));
  plotAll(document);
})();
