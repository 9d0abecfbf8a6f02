// Draws the figures of a page or of a report, each when it comes into view. A figure is an element with data-figure: the
// address of its JSON, or # and the id of a script element that holds it. Figures come without ink: text and lines take
// the colours of the page, and take them anew when the reader changes between light and dark.
"use strict";

window.figures = (() => {
  const BUTTONS = {
    displaylogo: false,
    responsive: true,
    showSendToCloud: false,
    // named one by one: Plotly's own choice holds one that uploads the figure to its makers
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "autoScale2d", "resetScale2d"]],
  };
  // A page must not slow down the search that it shows: a figure rests between two drawings, at least and at most so many
  // ms, and so many times as long as the last one took.
  const REST = [6000, 20000];
  const SHARE = 20;
  const NARROW = 480; // px, below which a figure has to save room
  const known = new Map(); // element -> { figure, seen, stale, timer, rested }
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
  function inked(element, layout) {
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
      if (/^[xy]axis/.test(key)) page[key] = { ...layout[key], gridcolor: line, linecolor: line };
    }
    if (element.clientWidth < NARROW) page.legend = { ...layout.legend, font: { size: 11 } };
    return page;
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
      const Plotly = await plotly();
      begun = Date.now();
      const figure = await read(element.dataset.figure);
      if (!state.figure) element.replaceChildren();
      state.figure = figure;
      await Plotly.react(element, figure.data, inked(element, figure.layout), BUTTONS);
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
    { rootMargin: "300px" },
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
      known.set(element, { figure: null, seen: false, stale: true, timer: null, rested: 0 });
      element.style.height = `${element.dataset.height}px`; // kept free, so that nothing moves when it is drawn
      watcher.observe(element);
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
      if (figure) window.Plotly.react(element, figure.data, inked(element, figure.layout), BUTTONS);
    }
  }

  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => scan());
  else scan();
  return { scan, refresh };
})();
