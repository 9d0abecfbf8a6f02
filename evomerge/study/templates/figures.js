// Draws the figures of a page or of a report, each when it comes into view. A figure is an element with data-figure: the
// address of its JSON, or # and the id of a script element that holds it. Figures come without ink: text and lines take
// the colours of the page, and take them anew when the reader changes between light and dark. A button with data-whole, the
// id of a figure, shows what lies beyond the ranges of the figure's axes, and hides it again.
"use strict";

window.figures = (() => {
  const BUTTONS = {
    displaylogo: false,
    responsive: true,
    showSendToCloud: false,
    // named one by one: Plotly's own choice holds one that uploads the figure to its makers
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  const POINTER = window.matchMedia("(hover: hover)");
  // A page must not slow down the search that it shows: a figure rests between two drawings, at least and at most so many
  // ms, and so many times as long as the last one took.
  const REST = [6000, 20000];
  const SHARE = 20;
  const NARROW = 480; // px, below which a figure has to save room
  const known = new Map(); // element -> { figure, seen, stale, timer, rested, whole }
  let library = null;

  // plotly.js is large: a page fetches it when its first figure comes into view, a report holds it
  function plotly() {
    library ??= window.Plotly
      ? Promise.resolve(window.Plotly)
      : new Promise((resolve, reject) => {
          const script = document.createElement("script");
          script.src = document.body.dataset.plotly;
          script.onload = () => resolve(window.Plotly);
          script.onerror = () => reject(new Error("plotly.js cannot be loaded"));
          document.head.append(script);
        });
    return library;
  }

  async function read(source) {
    if (source.startsWith("#")) return JSON.parse(document.getElementById(source.slice(1)).textContent);
    const answer = await fetch(source, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
    return answer.json();
  }

  // Colours that a script gives to Plotly cannot be CSS variables: it computes with them.
  function inked(element, layout, whole) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [ink, soft, line, panel, edge] = ["--ink", "--soft", "--line", "--panel", "--edge"].map(colour);
    const ground = "rgba(0, 0, 0, 0)";
    const page = {
      ...layout,
      font: { ...layout.font, color: soft },
      paper_bgcolor: ground,
      plot_bgcolor: ground,
      hoverlabel: { bgcolor: panel, bordercolor: edge, font: { color: ink } },
      modebar: { ...layout.modebar, bgcolor: ground, color: soft, activecolor: ink },
      annotations: layout.annotations?.map((each) => ({ ...each, ...(each.bgcolor && { bgcolor: panel }), font: { ...each.font, color: ink } })),
    };
    for (const key of Object.keys(layout)) {
      if (!/^[xy]axis/.test(key)) continue;
      page[key] = { ...layout[key], gridcolor: line, linecolor: line };
      // under another revision it forgets how far the reader had zoomed in
      if (whole) Object.assign(page[key], { range: undefined, autorange: true, uirevision: "whole" });
    }
    if (isNarrow(element)) page.legend = { ...layout.legend, font: { size: 11 } };
    return page;
  }

  function isNarrow(element) {
    return element.clientWidth < NARROW;
  }

  async function paint(element) {
    const { figure, whole } = known.get(element);
    const traces = figure.data.map((each) => (whole && each.meta === "unlisted" ? { ...each, showlegend: true } : each));
    // without a pointer to hover with, the buttons would lie on the figure all the time
    const buttons = { ...BUTTONS, displayModeBar: isNarrow(element) || !POINTER.matches ? false : "hover" };
    await window.Plotly.react(element, traces, inked(element, figure.layout, whole), buttons);
  }

  function say(element, text) {
    let note = element.querySelector(":scope > .wait");
    if (!note) {
      note = document.createElement("p");
      note.className = "wait";
      element.append(note);
    }
    note.textContent = text;
  }

  async function draw(element) {
    const state = known.get(element);
    state.stale = false;
    let begun = Date.now();
    try {
      await plotly();
      begun = Date.now();
      const figure = await read(element.dataset.figure);
      if (!state.figure) element.replaceChildren();
      state.figure = figure;
      await paint(element);
    } catch (error) {
      // an older drawing is better than none
      if (!state.figure) say(element, `This figure cannot be drawn: ${error.message}.`);
    }
    const rest = SHARE * (Date.now() - begun);
    state.rested = Date.now() + Math.min(Math.max(rest, REST[0]), REST[1]);
  }

  function drawSoon(element) {
    const state = known.get(element);
    state.timer ??= setTimeout(async () => {
      if (state.seen && state.stale && element.isConnected) await draw(element);
      state.timer = null;
      if (state.seen && state.stale && element.isConnected) drawSoon(element); // it was refreshed meanwhile
    }, Math.max(0, state.rested - Date.now()));
  }

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        const state = known.get(target);
        if (!state) continue;
        state.seen = isIntersecting;
        if (isIntersecting && state.stale) drawSoon(target);
      }
    },
    { rootMargin: "400px" },
  );

  // Find figures that are new, and forget those that are gone.
  function scan(root = document) {
    for (const element of known.keys()) {
      if (element.isConnected) continue;
      watcher.unobserve(element);
      if (known.get(element).figure) window.Plotly.purge(element);
      known.delete(element);
    }
    for (const element of root.querySelectorAll("[data-figure]")) {
      if (known.has(element)) continue;
      known.set(element, { figure: null, seen: false, stale: true, timer: null, rested: 0, whole: false });
      element.style.height = `${element.dataset.height}px`; // kept free, so that nothing moves when it is drawn
      watcher.observe(element);
    }
    for (const button of root.querySelectorAll("[data-whole]")) {
      button.setAttribute("aria-pressed", known.get(document.getElementById(button.dataset.whole)).whole);
    }
  }

  // Bring all figures up to date: those in view as soon as they have rested, the others when they come into view.
  function refresh() {
    for (const [element, state] of known) {
      state.stale = true;
      if (state.seen) drawSoon(element);
    }
  }

  function restyle() {
    for (const [element, { figure }] of known) {
      if (figure) paint(element);
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-whole]");
    if (!button) return;
    const element = document.getElementById(button.dataset.whole);
    const state = known.get(element);
    state.whole = !state.whole;
    button.setAttribute("aria-pressed", state.whole);
    if (state.figure) paint(element);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => scan());
  else scan();
  return { scan, refresh };
})();
