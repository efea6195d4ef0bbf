// Draws what the model holds with uPlot, which stands above this in the module. All that a person does to the chart is
// kept in the model, so that every view of it shows the same, and needs no answer of the kernel.
const LEVELS = ["none", "light", "medium", "strong"];
const HEIGHT = 240; // pixels of a plot
const POINT = 8;
const DIGIT = 7.5; // pixels, about

// Round numbers at equal distances, each once.
export function ticks(low, high, most, least = 0) {
  const span = Math.max((high - low) / Math.max(most, 1), least);
  if (!(span > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(span) + 1e-9);
  const distance = [1, 2, 5, 10].map((n) => n * power).find((one) => one >= span * (1 - 1e-9));
  const found = [];
  const last = high / distance + 1e-9;
  for (let n = Math.ceil(low / distance - 1e-9); n <= last; n++) found.push(n * distance + 0); // + 0: no -0
  return found;
}

// Ones, twos and fives of each power of ten; of many powers some, and of less than one, numbers at equal distances.
export function logTicks(low, high, most) {
  const first = Math.floor(Math.log10(low));
  const powers = Array.from({ length: Math.ceil(Math.log10(high)) - first + 1 }, (_, n) => 10 ** (first + n));
  const inside = (found) => found.filter((one) => one >= low * (1 - 1e-9) && one <= high * (1 + 1e-9));
  const all = inside(powers.flatMap((one) => [one, 2 * one, 5 * one]));
  if (all.length < 3) return ticks(low, high, most);
  if (all.length <= most) return all;
  const tens = inside(powers);
  return tens.filter((_, n) => n % Math.ceil(tens.length / most) === 0);
}

// Labels with the same number of decimals, just so many that neighbours differ.
export function labels(numbers) {
  const gaps = numbers.slice(1).map((one, n) => one - numbers[n]);
  const digits = gaps.length ? Math.max(0, -Math.floor(Math.log10(Math.min(...gaps)) + 1e-9)) : 3;
  return numbers.map((one) => said(one, digits));
}

function said(number, digits) {
  return number.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function told(value) {
  return value !== 0 && Math.abs(value) < 0.01 ? value.toPrecision(2) : said(value, 3);
}

// The place of the number that is nearest to another in an ascending list.
export function nearest(numbers, wanted) {
  let low = 0;
  let high = numbers.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= wanted) low = middle;
    else high = middle;
  }
  return wanted - numbers[low] <= numbers[high] - wanted ? low : high;
}

function make(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function button(label, press) {
  const made = make("button", "peft-nb-chart-button", label);
  made.type = "button";
  made.addEventListener("click", press);
  return made;
}

function numbers(bytes) {
  return new Float64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

function decoded(line) {
  return { ...line, x: numbers(line.x), y: line.y.map(numbers) };
}

function swatch({ dash, marked, pale }) {
  const svg = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(svg, "svg");
  const add = (tag, of) => {
    const part = document.createElementNS(svg, tag);
    for (const [name, value] of Object.entries(of)) part.setAttribute(name, value);
    picture.append(part);
  };
  for (const [name, value] of Object.entries({ width: 26, height: 10, "aria-hidden": "true" })) {
    picture.setAttribute(name, value);
  }
  if (pale) picture.style.opacity = 0.5;
  const stroke = { stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": dash.join(" ") };
  add("line", { x1: 0, x2: 26, y1: 5, y2: 5, ...stroke });
  if (marked) add("circle", { cx: 13, cy: 5, r: 3.5, fill: "currentColor" });
  return picture;
}

// One plot, and above it its title and its legend.
class Pane {
  constructor(chart, title) {
    this.chart = chart;
    this.legend = make("div", "peft-nb-legend");
    this.plot = make("div", "peft-nb-plot");
    this.title = title;
    // A slider is what screen readers know of something that arrow keys move and that says a value.
    for (const [name, value] of Object.entries({ role: "slider", tabindex: 0, "aria-label": `${title} by step` })) {
      this.plot.setAttribute(name, value);
    }
    this.plot.addEventListener("keydown", (event) => chart.pressed(event));
    this.plot.addEventListener("focus", () => chart.point(chart.step, true));
    this.plot.addEventListener("blur", () => chart.point(null));
    this.node = make("div", "peft-nb-pane", this.legend, this.plot);
  }

  // Take other lines; those that look alike leave the legend and the drawing as they are, with what is at work there.
  take(lines) {
    const looks = JSON.stringify(lines.map(({ x, y, ...look }) => look));
    this.lines = lines;
    this.drawn = [...lines.filter((line) => line.pale), ...lines.filter((line) => !line.pale)];
    if (looks !== this.looks) {
      this.looks = looks;
      const title = make("span", "peft-nb-pane-title", this.title);
      this.legend.replaceChildren(title, ...lines.map((line) => this.entry(line)));
      this.draw();
    } else {
      this.u.setData(this.columns());
    }
  }

  entry(line) {
    const value = make("span", `peft-nb-value${line.marked || line.noisy ? " peft-nb-roomy" : ""}`);
    const name = make("bdi", "", line.name);
    const made = button("", () => this.chart.toggle(line.name));
    made.append(swatch(line), name, value);
    made.className = "peft-nb-entry";
    made.style.color = `var(--peft-nb-curve-${line.colour})`;
    made.title = `Show or hide ${line.name}`;
    made.dataset.name = line.name;
    return made;
  }

  get log() {
    return this.chart.model.get("log_scale") && !this.lines[0].share;
  }

  get level() {
    return Math.max(LEVELS.indexOf(this.chart.model.get("smoothing")), 0);
  }

  // The values of a line as they are drawn.
  values(line) {
    return line.y[line.noisy ? this.level : 0];
  }

  // Single steps of one noisy line stand faint behind its smooth one; those of several would hide each other.
  behind() {
    const noisy = this.lines.filter((line) => line.noisy && !line.pale);
    return this.level && noisy.length === 1 ? noisy : [];
  }

  columns() {
    const single = this.behind().map((line) => [line.x, line.y[0]]);
    const all = [...single, ...this.drawn.map((line) => [line.x, this.values(line)])];
    let least = 0;
    if (this.log) {
      const positive = all.flatMap(([, y]) => [...y].filter((one) => one > 0));
      least = positive.length ? positive.reduce((low, one) => Math.min(low, one)) : 1e-9;
    }
    const placed = all.map(([x, y]) => [[...x], Array.from(y, (one) => (this.log ? Math.max(one, least) : one))]);
    return uPlot.join(placed);
  }

  draw() {
    const { model } = this.chart;
    this.u?.destroy();
    const style = getComputedStyle(this.plot);
    const colour = (line) => style.getPropertyValue(`--peft-nb-curve-${line.colour}`).trim();
    const hidden = model.get("hidden");
    const font = `12px ${style.fontFamily}`;
    const axis = { stroke: style.color, font, ticks: { show: false }, gap: 6 };
    const plain = (line) => ({ stroke: colour(line), show: !hidden.includes(line.name) });
    // Points so close that they touch say less than the line; of a single one there is no line.
    const shown = (marked) => (u, place) => {
      const count = u.data[place].filter((one) => one != null).length;
      return count === 1 || (marked && count * POINT * 1.5 < u.width);
    };
    const series = [
      {},
      ...this.behind().map((line) => ({ ...plain(line), width: 1, alpha: 0.4, points: { show: false } })),
      ...this.drawn.map((line) => ({
        ...plain(line),
        width: 2,
        alpha: line.pale ? 0.45 : 1,
        dash: line.dash,
        points: { show: shown(line.marked), size: POINT, width: 0, fill: colour(line) },
      })),
    ];
    const faint = this.behind().length;
    const distance = (size, pixels) => Math.max(Math.floor(size / pixels), 2);
    const options = {
      width: this.width,
      height: HEIGHT,
      padding: [10, 26, 0, 0],
      legend: { show: false },
      scales: {
        x: { time: false, range: () => this.chart.range },
        y: { distr: this.log ? 3 : 1, range: (u, low, high) => this.room(low, high) },
      },
      axes: [
        {
          ...axis,
          size: 24,
          label: "step",
          labelSize: 16,
          labelGap: 0,
          labelFont: font,
          grid: { show: false },
          splits: (u, side, low, high) => ticks(low, high, distance(u.bbox.width / devicePixelRatio, 80), 1),
          values: (u, splits) => labels(splits),
        },
        {
          ...axis,
          size: (u, texts) => 14 + DIGIT * Math.max(0, ...(texts ?? []).map((text) => text.length)),
          grid: { stroke: "rgba(128,128,128,0.22)", width: 1 },
          splits: (u, side, low, high) => {
            const most = distance(u.bbox.height / devicePixelRatio, 26);
            return this.log ? logTicks(low, high, most) : ticks(low, high, most);
          },
          filter: (u, splits) => splits,
          values: (u, splits) => labels(splits),
        },
      ],
      series,
      cursor: {
        y: false,
        move: (u, left, top) => (left < 0 ? [left, top] : [this.place(this.chart.beside(u.posToVal(left, "x"))), top]),
        points: { size: (u, place) => (place > faint ? POINT + 1 : 0) },
        drag: { x: true, y: false, setScale: false },
        bind: { dblclick: () => () => this.chart.zoom([]) },
      },
      hooks: {
        setSelect: [
          (u) => {
            const ends = [u.select.left, u.select.left + u.select.width].map((left) => u.posToVal(left, "x"));
            u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            this.chart.zoom(ends);
          },
        ],
      },
    };
    this.u = new uPlot(options, this.columns(), this.plot);
    const here = ({ offsetX }) => this.chart.point(this.chart.beside(this.u.posToVal(offsetX, "x")));
    this.u.over.addEventListener("mousemove", here);
    this.u.over.addEventListener("mouseleave", () => this.chart.point(null));
  }

  get width() {
    return this.plot.clientWidth || this.u?.width || 340; // while the page is hidden, nothing has a width
  }

  place(step) {
    return this.u.valToPos(step, "x");
  }

  // A little more than what is drawn, so that no curve runs along the edge; shares have the whole range.
  room(low, high) {
    if (low == null || high == null) return this.log ? [0.1, 1] : [0, 1];
    if (this.lines[0].share) return [Math.min(0, low), Math.max(1, high)];
    if (this.log) return [low / 1.1, high * 1.1];
    const more = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.1;
    return [low - more, high + more];
  }

  // Put the crosshair on a step, or away, and say the values there; without one those that are newest.
  show(step) {
    this.u.setCursor({ left: step === null ? -10 : this.place(step), top: step === null ? -10 : 10 }, false);
    const parts = this.lines.map((line, n) => {
      const place = step === null ? line.x.length - 1 : nearest(line.x, step);
      const value = told(this.values(line)[place]);
      const more = [];
      if (step !== null && this.behind().includes(line)) more.push(`logged ${told(line.y[0][place])}`);
      if (step !== null && line.x[place] !== step) more.push(`step ${said(line.x[place], 0)}`);
      const text = value + (more.length ? ` (${more.join(", ")})` : "");
      this.legend.children[n + 1].querySelector(".peft-nb-value").textContent = text;
      return `${line.name} ${text}`;
    });
    const hidden = this.chart.model.get("hidden");
    return parts.filter((_, n) => !hidden.includes(this.lines[n].name));
  }
}

class Chart {
  constructor(model, el) {
    this.model = model;
    this.step = null;
    this.panes = new Map();
    this.smoothing = make("select", "", ...LEVELS.map((level) => make("option", "", level)));
    this.smoothing.addEventListener("change", () => this.set("smoothing", this.smoothing.value));
    this.smooth = make("label", "", "Smoothing ", this.smoothing);
    this.others = make("select", "");
    this.others.addEventListener("change", () => this.set("behind", this.others.value));
    this.compared = make("label", "", "Compare with ", this.others);
    this.log = button("Log scale", () => this.set("log_scale", !model.get("log_scale")));
    this.reset = button("Reset view", () => this.zoom([]));
    this.reset.title = "Show all steps again";
    this.where = make("span", "peft-nb-step");
    this.bar = make("div", "peft-nb-chart-bar", this.smooth, this.log, this.reset, this.compared, this.where);
    this.body = make("div", "peft-nb-panes");
    el.classList.add("peft-nb-chart");
    el.append(this.bar, this.body);
    this.take();
    this.offer();
  }

  set(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  get range() {
    const view = this.model.get("view");
    return view.length ? view : [0, Math.max(this.model.get("end"), 1)];
  }

  take() {
    const lines = this.model.get("lines").map(decoded);
    const titles = [...new Set(lines.map((line) => line.pane))];
    for (const [title, pane] of this.panes) {
      if (titles.includes(title)) continue;
      pane.u.destroy();
      pane.node.remove();
      this.panes.delete(title);
    }
    for (const title of titles) {
      if (!this.panes.has(title)) {
        const pane = new Pane(this, title);
        this.panes.set(title, pane);
        this.body.append(pane.node);
      }
      this.panes.get(title).take(lines.filter((line) => line.pane === title));
    }
    this.steps = [...new Set(lines.flatMap((line) => [...line.x]))].sort((a, b) => a - b);
    this.bar.style.display = lines.length ? "" : "none"; // no axes and no controls before there is anything
    this.settle();
  }

  redraw() {
    for (const pane of this.panes.values()) pane.draw();
    this.settle();
  }

  offer() {
    const names = this.model.get("others");
    this.compared.hidden = !names.length;
    this.others.replaceChildren(...["", ...names].map((name) => new Option(name || "(none)", name)));
    this.settle();
  }

  // Let controls, legend and crosshair say what is so.
  settle() {
    const { model, smoothing, log, reset } = this;
    const hidden = model.get("hidden");
    const lines = [...this.panes.values()].flatMap((pane) => pane.lines);
    this.smooth.hidden = !lines.some((line) => line.noisy);
    smoothing.value = model.get("smoothing");
    log.setAttribute("aria-pressed", model.get("log_scale"));
    this.others.value = model.get("behind");
    reset.disabled = !model.get("view").length;
    for (const pane of this.panes.values()) {
      for (const one of pane.legend.querySelectorAll("button")) {
        one.setAttribute("aria-pressed", !hidden.includes(one.dataset.name));
      }
    }
    queueMicrotask(() => this.point(this.step)); // uPlot knows new scales once it has drawn
  }

  // Where the crosshair is, in all plots; it is said aloud only when a person moves it by keyboard.
  point(step, aloud = false) {
    this.step = step;
    const newest = this.steps.at(-1) ?? 0;
    const shown = step ?? newest;
    this.where.textContent = step === null ? "" : `step ${said(step, 0)}`;
    for (const pane of this.panes.values()) {
      const parts = pane.show(step);
      if (!aloud && pane.plot.hasAttribute("aria-valuenow")) continue;
      const text = [`step ${said(shown, 0)}`, ...parts].join(", ");
      for (const [name, value] of Object.entries({ now: shown, min: this.steps[0], max: newest, text })) {
        pane.plot.setAttribute(`aria-value${name}`, value);
      }
    }
  }

  // The logged step that is nearest to another.
  beside(step) {
    return this.steps[nearest(this.steps, step)];
  }

  pressed(event) {
    const [low, high] = this.range;
    const inside = this.steps.filter((step) => step >= low && step <= high);
    const now = this.step === null ? inside.length : nearest(inside, this.step);
    const last = inside.length - 1;
    const far = Math.max(Math.round(inside.length / 10), 1);
    const moves = { ArrowLeft: now - 1, ArrowRight: now + 1, PageDown: now - far, PageUp: now + far, Home: 0, End: last };
    const scales = { "+": 0.5, "=": 0.5, "-": 2 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves && inside.length) {
      this.point(inside[Math.min(Math.max(moves[event.key], 0), last)], true);
    } else if (event.key in scales) {
      const middle = this.step ?? (low + high) / 2;
      this.zoom([low, high].map((end) => middle + (end - middle) * scales[event.key]));
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Show the steps from one to another; all of them if that is everything.
  zoom(ends) {
    const end = Math.max(this.model.get("end"), 1);
    const [low, high] = ends.length ? ends : [0, end];
    const within = [Math.max(low, 0), Math.min(high, end)];
    if (within[1] - within[0] < 1) return;
    this.set("view", within[0] <= 0 && within[1] >= end ? [] : within);
  }

  toggle(name) {
    const hidden = this.model.get("hidden");
    this.set("hidden", hidden.includes(name) ? hidden.filter((one) => one !== name) : [...hidden, name]);
  }

  fit() {
    for (const pane of this.panes.values()) {
      if (pane.width !== pane.u.width) pane.u.setSize({ width: pane.width, height: HEIGHT });
    }
    queueMicrotask(() => this.point(this.step));
  }
}

function render({ model, el }) {
  const chart = new Chart(model, el);
  const take = () => chart.take();
  const redraw = () => chart.redraw();
  const signs = { "change:others": () => chart.offer(), "change:behind": () => chart.settle() };
  for (const name of ["lines", "end", "view"]) signs[`change:${name}`] = take;
  for (const name of ["smoothing", "log_scale", "hidden"]) signs[`change:${name}`] = redraw;
  for (const [name, act] of Object.entries(signs)) model.on(name, act);
  // A theme is changed by an attribute of the page; its style sheet may come a moment later.
  const colours = () => getComputedStyle(el).color + getComputedStyle(el).getPropertyValue("--peft-nb-curve-0");
  let known = colours();
  const look = () => {
    if (known === colours()) return;
    known = colours();
    chart.redraw();
  };
  const sized = new ResizeObserver(() => {
    look(); // before it is on the page it has no colours
    chart.fit();
  });
  sized.observe(chart.body);
  const themed = new MutationObserver(() => {
    look();
    setTimeout(look, 500);
  });
  for (const one of [document.documentElement, document.body]) themed.observe(one, { attributes: true });
  return () => {
    for (const [name, act] of Object.entries(signs)) model.off(name, act);
    sized.disconnect();
    themed.disconnect();
    for (const pane of chart.panes.values()) pane.u.destroy();
  };
}

export default { render };
