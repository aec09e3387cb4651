// Small line charts as SVG. A chart shows the last five minutes, the newest at the right.

import { el, say } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 60;
const SVG = "http://www.w3.org/2000/svg";

/** A number with two or three digits that count. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 10000) return `${Math.round(value / 1000)}k`;
  return String(value >= 100 || Number.isInteger(value) ? Math.round(value) : Number(value.toPrecision(2)));
}

/**
 * A chart titled `title`, with a line for each of the `names`. Its `draw(lines, slots)` takes an array of numbers for
 * each line, null where there is none, and how many there would be in five minutes.
 */
export function chart(title, names, unit = "", small = false) {
  const paths = names.map((_, index) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", `s${index}`);
    return path;
  });
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.append(...paths);
  const values = names.map(() => el("b"));
  const legend = names.map((name, index) => el("span", { className: `k${index}` }, `${name} `, values[index]));
  const most = el("span");
  const node = el("figure", { className: small ? "chart small" : "chart" });
  node.append(el("figcaption", {}, el("span", {}, title), ...legend, most), svg);

  function draw(lines, slots) {
    const top = Math.max(0, ...lines.flat().filter((value) => value !== null)) || 1;
    lines.forEach((line, index) => {
      paths[index].setAttribute("d", outline(line, slots, top));
      say(values[index], `${short(line.at(-1))}${line.at(-1) === null || line.length === 0 ? "" : unit}`);
    });
    say(most, `max ${short(top)}${unit}`);
    const said = names.map((name, index) => `${name} ${values[index].textContent}`).join(", ");
    svg.setAttribute("aria-label", `${title}, last five minutes: now ${said}; at most ${short(top)}${unit}`);
  }
  return { node, draw };
}

function outline(line, slots, top) {
  const step = WIDTH / Math.max(1, slots - 1);
  let d = "";
  let drawing = false;
  line.forEach((value, index) => {
    if (value === null) {
      drawing = false;
      return;
    }
    const x = WIDTH - (line.length - 1 - index) * step;
    const y = HEIGHT - 2 - (value / top) * (HEIGHT - 4);
    d += drawing ? `L${x.toFixed(1)} ${y.toFixed(1)}` : `M${x.toFixed(1)} ${y.toFixed(1)}h0.1`;
    drawing = true;
  });
  return d;
}
