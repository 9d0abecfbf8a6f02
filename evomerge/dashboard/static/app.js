// What a page gains from JavaScript: parts that follow a running search, buttons that copy, times as the clock here
// shows them. Every page works without; figures.js draws the figures.
"use strict";

const PAUSE = 3000; // ms between refreshes, however fast the search is

// ---- live parts: the page is fetched again, and its [data-live] parts take the places of the old ones

// How to find an element again in a newer version of its part.
function path(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  for (const attribute of ["href", "formaction", "data-copy", "aria-label", "name"]) {
    const value = element.getAttribute(attribute);
    if (value !== null) return `${element.localName}[${attribute}="${CSS.escape(value)}"]`;
  }
  const form = element.closest("form[action]");
  return form ? `form[action="${CSS.escape(form.getAttribute("action"))}"] ${element.localName}` : null;
}

function isEdited(part) {
  const active = document.activeElement;
  return part.contains(active) && active.matches("input:not([type=hidden], [type=checkbox]), select, textarea");
}

function replace(old, fresh) {
  prepare(fresh); // as the old one was, so that the two can be compared
  if (isEdited(old) || old.isEqualNode(fresh)) return;
  const focused = old.contains(document.activeElement) ? path(document.activeElement) : null;
  const scrolled = Array.from(old.querySelectorAll(".scroll, pre"), (each) => ({
    left: each.scrollLeft,
    top: each.scrollTop,
    atEnd: each.scrollTop + each.clientHeight >= each.scrollHeight - 4,
  }));
  const opened = Array.from(old.querySelectorAll("details[id]"), (each) => [each.id, each.open]);
  const ticked = Array.from(old.querySelectorAll("[type=checkbox][id]"), (each) => [each.id, each.checked]);
  for (const figure of fresh.querySelectorAll("[data-figure][id]")) {
    const drawn = old.querySelector(`#${CSS.escape(figure.id)}`);
    if (drawn?.dataset.figure === figure.dataset.figure) figure.replaceWith(drawn);
  }
  old.replaceWith(fresh);
  for (const [id, open] of opened) {
    const details = document.getElementById(id);
    if (details) details.open = open;
  }
  for (const [id, checked] of ticked) {
    const box = document.getElementById(id);
    if (box) box.checked = checked;
  }
  fresh.querySelectorAll(".scroll, pre").forEach((each, index) => {
    const before = scrolled[index] ?? { left: 0, top: 0, atEnd: true };
    each.scrollLeft = before.left;
    each.scrollTop = before.atEnd && each.matches(".log") ? each.scrollHeight : before.top;
  });
  if (focused) fresh.querySelector(focused)?.focus({ preventScroll: true });
}

// In which states what the page is about is.
const states = () => Array.from(document.querySelectorAll(".title > .badge"), (each) => each.textContent).join();

// Gives whether the page still has something to follow.
async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return true;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const [top, before] = [window.scrollY, states()];
  for (const old of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(old.id);
    if (fresh) replace(old, document.adoptNode(fresh));
  }
  // "The search pauses soon" is not to stand above "paused"
  if (states() !== before) document.querySelectorAll("[data-said]").forEach((each) => each.remove());
  if (window.scrollY !== top) window.scrollTo({ top, behavior: "instant" });
  window.figures?.scan();
  window.figures?.refresh();
  return Boolean(page.body.dataset.events);
}

function follow(url) {
  const notice = document.getElementById("connection");
  let source = null;
  let timer = null; // of the next refresh, until it is done
  let last = Date.now(); // the page is as fresh as can be
  let again = false; // something changed during a refresh
  let more = true; // there is something to follow

  const soon = () => {
    if (timer !== null) {
      again = true;
      return;
    }
    timer = setTimeout(async () => {
      again = false;
      more = await refresh().catch(() => true); // the notice tells of a server that is gone
      timer = null;
      last = Date.now();
      if (!more) source.close();
      else if (again) soon();
    }, Math.max(0, last + PAUSE - Date.now()));
  };

  const listen = () => {
    source = new EventSource(url);
    source.addEventListener("changed", soon);
    source.addEventListener("open", () => {
      if (!notice.hidden) soon();
      notice.hidden = true;
    });
    source.addEventListener("error", () => {
      if (notice.hidden) {
        const time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
        notice.textContent = `Connection lost at ${time}. What you see may be out of date; this page keeps trying.`;
        notice.hidden = false;
      }
      if (source.readyState === EventSource.CLOSED) notice.textContent = "This page no longer follows. Reload it to go on.";
    });
  };

  // A browser has six connections to a host: tabs that nobody looks at leave them to the others.
  document.addEventListener("visibilitychange", () => {
    source?.close();
    if (!document.hidden && more) listen(); // the server tells at once what was missed
  });
  window.addEventListener("pagehide", () => source?.close());
  window.addEventListener("pageshow", (event) => event.persisted && location.reload());
  if (!document.hidden) listen();
}

// ---- small things

async function copy(button) {
  await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).textContent);
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1500);
}

// "14:05" today, else "21 Nov, 14:05"; the year where it is another one
function told(time) {
  const now = new Date();
  const clock = { hour: "2-digit", minute: "2-digit" };
  if (time.toDateString() === now.toDateString()) return time.toLocaleTimeString([], clock);
  const year = time.getFullYear() === now.getFullYear() ? {} : { year: "numeric" };
  return time.toLocaleString([], { ...year, month: "short", day: "numeric", ...clock });
}

function prepare(root) {
  // the clipboard is there on https and localhost only
  if (navigator.clipboard) root.querySelectorAll("[data-copy]").forEach((button) => (button.hidden = false));
  for (const each of root.querySelectorAll("time[datetime]")) {
    const time = new Date(each.dateTime);
    if (Number.isNaN(time.getTime())) continue;
    each.textContent = told(time);
    each.title = time.toLocaleString();
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});

// What an action has said is told once, not again after a reload; what answers a form is at an address of no page.
function forgetFlash() {
  const here = new URL(document.querySelector("link[rel=canonical]")?.href ?? location.href);
  for (const name of ["flash", "warning", "signed"]) here.searchParams.delete(name);
  if (here.href !== location.href) history.replaceState(null, "", here);
}

prepare(document);
forgetFlash();
if (document.body.dataset.events) follow(document.body.dataset.events);
