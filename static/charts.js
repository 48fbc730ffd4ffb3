// Drawings over time that can be looked at closely, made of the tables beside them. Without this file the drawings of
// the page stand; what can be done by dragging can be done by buttons, too.
"use strict";

(() => {
  const DASHES = [[], [8, 4], [2, 4]];
  const LEAST_PARTS = 4;
  const DAY = 24 * 60 * 60;
  const FONT = "system-ui, sans-serif";
  const probe = document.body.appendChild(document.createElement("i"));
  probe.hidden = true;

  // A colour as the theme has it now: a canvas does not understand variables.
  function colour(name) {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  }

  const variable = (_, series) => `var(--c${series})`;

  function written(seconds) {
    return seconds < 1 ? `${Number((1000 * seconds).toPrecision(3))} ms` : `${Number(seconds.toPrecision(3))} s`;
  }

  // At the beginning of a day its name, else the time of the day.
  function named(second, between) {
    const at = new Date(1000 * second);
    const isDay = between >= DAY || second % DAY === 0;
    const how = isDay ? { day: "numeric", month: "short" } : { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
    return at.toLocaleString("en-GB", { ...how, timeZone: "UTC" });
  }

  const counted = (count) => count.toLocaleString("en");
  const moment = (second) => `${new Date(1000 * second).toISOString().slice(0, 16).replace("T", " ")} UTC`;

  function columns(table) {
    const value = (cell) => (cell.dataset.value === undefined ? null : Number(cell.dataset.value));
    const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].map(value));
    return rows[0].map((_, column) => rows.map((row) => row[column]));
  }

  // What happened meanwhile: a line through the drawing, named at its top.
  function drawMarks(plot, marks) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = colour("--mute");
    ctx.lineWidth = ratio;
    ctx.font = `${11 * ratio}px ${FONT}`;
    // As the library left it, it is that of an axis.
    ctx.textAlign = "left";
    ctx.textBaseline = "top";
    ctx.setLineDash([4 * ratio, 3 * ratio]);
    for (const { at, text } of marks) {
      const x = Math.round(plot.valToPos(at, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const width = ctx.measureText(text).width + 8 * ratio;
      const left = x + width < bbox.left + bbox.width ? x : x - width;
      ctx.fillStyle = colour("--panel");
      ctx.fillRect(left + ratio, bbox.top, width - 2 * ratio, 15 * ratio);
      ctx.fillStyle = colour("--mute");
      ctx.fillText(text, left + 4 * ratio, bbox.top + 2 * ratio);
    }
    ctx.restore();
  }

  function options(place, table, chosen, marks, told) {
    const isCount = place.dataset.form === "bars";
    const shown = isCount ? counted : written;
    const axis = { stroke: colour("--mute"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: `12px ${FONT}` };
    const series = chosen.map((column, at) => ({
      label: table.tHead.rows[0].cells[column].textContent,
      stroke: colour(`--c${at + 1}`),
      fill: isCount ? colour(`--c${at + 1}`) : undefined,
      width: isCount ? 0 : 2,
      dash: DASHES[at],
      paths: isCount ? uPlot.paths.bars({ size: [0.8, 64], align: 1 }) : undefined,
      points: { show: isCount ? false : undefined, size: 4 },
      value: (_, value) => (value === null || value === undefined ? "–" : shown(value)),
    }));
    return {
      width: place.clientWidth,
      height: 200,
      tzDate: (second) => uPlot.tzDate(new Date(1000 * second), "UTC"),
      scales: { x: { time: true }, y: { range: (_, least, most) => [0, most > 0 ? most * 1.05 : 1] } },
      padding: [8, 12, 0, 0],
      axes: [{ ...axis, values: (_, seconds, __, ___, between) => seconds.map((second) => named(second, between)) }, { ...axis, size: 60, values: (_, values) => values.map(shown) }],
      series: [{ label: "From", value: (_, second) => (second === null || second === undefined ? "–" : moment(second)) }, ...series],
      // What is no canvas follows the theme by itself.
      legend: { markers: { stroke: variable, fill: isCount ? variable : () => "none" } },
      cursor: {
        sync: { key: place.dataset.plot, scales: ["x", null] },
        drag: { x: true, y: false },
        points: { size: 6, stroke: variable, fill: variable },
      },
      hooks: {
        draw: [(plot) => drawMarks(plot, marks)],
        setScale: [(plot, key) => { if (key === "x") told(plot.scales.x.min, plot.scales.x.max); }],
      },
    };
  }

  class Figures {
    constructor(table, places) {
      this.table = table;
      this.places = places;
      this.data = columns(table);
      this.step = Number(table.dataset.step);
      const times = this.data[0];
      // To the end of the last part.
      [this.first, this.last] = [times[0], times[times.length - 1] + this.step];
      [this.from, this.to] = [this.first, this.last];
      const marks = document.querySelector(`[data-marks=${table.id}]`);
      this.marks = [...(marks?.children ?? [])].map(({ dataset }) => ({ at: Number(dataset.at), text: dataset.text }));
      this.plots = [];
      this.draw();
    }

    draw() {
      this.plots.forEach((plot) => plot.destroy());
      this.plots = this.places.map((place) => {
        const chosen = place.dataset.columns.split(" ").map(Number);
        const data = [this.data[0], ...chosen.map((column) => this.data[column])];
        const plot = new uPlot(options(place, this.table, chosen, this.marks, (from, to) => this.tell(from, to)), data, place);
        plot.root.setAttribute("role", "img");
        plot.root.setAttribute("aria-label", place.dataset.says);
        return plot;
      });
      this.show(this.from, this.to);
    }

    show(from, to) {
      this.plots.forEach((plot) => plot.setScale("x", { min: from, max: to }));
    }

    // However it came to be: by a button, by dragging, or by a double click, which shows all.
    tell(from, to) {
      if (from === null || to === null) return;
      [this.from, this.to] = [from, to];
      const says = document.querySelector(`[data-shown=${this.table.id}]`);
      const isAll = from <= this.first && to >= this.last - this.step;
      says.textContent = isAll ? "" : `Shown: ${moment(from)} to ${moment(to)}`;
    }

    move(how) {
      const span = this.to - this.from;
      const [from, to] = {
        closer: [this.from + span / 4, this.to - span / 4],
        wider: [this.from - span / 2, this.to + span / 2],
        earlier: [this.from - span / 2, this.to - span / 2],
        later: [this.from + span / 2, this.to + span / 2],
        all: [this.first, this.last],
      }[how];
      // Not closer than some parts, and not beyond what there is.
      const length = Math.min(this.last - this.first, Math.max(to - from, LEAST_PARTS * this.step));
      const begins = Math.min(Math.max((from + to - length) / 2, this.first), this.last - length);
      this.show(begins, begins + length);
    }

    resize() {
      this.plots.forEach((plot, at) => {
        const width = this.places[at].clientWidth;
        if (width && width !== plot.width) plot.setSize({ width, height: plot.height });
      });
    }
  }

  const places = [...document.querySelectorAll("[data-plot]")];
  const found = new Map();
  for (const id of new Set(places.map((place) => place.dataset.plot))) {
    const mine = places.filter((place) => place.dataset.plot === id);
    mine.forEach((place) => place.replaceChildren());
    const made = new Figures(document.getElementById(id), mine);
    found.set(id, made);
    new ResizeObserver(() => made.resize()).observe(mine[0]);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-zoom] button");
    if (button) found.get(button.closest("[data-zoom]").dataset.zoom).move(button.value);
  });

  const again = () => found.forEach((made) => made.draw());
  new MutationObserver(again).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
})();
