// What scripts add to the pages of the console. Every page works without them.
"use strict";

/** Moments in the reader's own time; what the page says is UTC. */
function tellLocalTimes() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!Number.isNaN(at.getTime())) time.title = at.toLocaleString();
  }
}

/** A field that narrows a list while somebody types: `data-narrows` names the list, whose children are looked through. */
function narrowLists() {
  for (const field of document.querySelectorAll("input[data-narrows]")) {
    const list = document.getElementById(field.dataset.narrows);
    if (list === null) continue;
    field.closest(".field").hidden = false;
    field.addEventListener("input", () => {
      const wanted = field.value.trim().toLowerCase();
      for (const item of list.children) item.hidden = !item.textContent.toLowerCase().includes(wanted);
    });
  }
}

/** A button that copies: `data-copies` names what. It is hidden where there are no scripts. */
function copyByButton() {
  for (const button of document.querySelectorAll("button[data-copies]")) {
    const source = document.getElementById(button.dataset.copies);
    if (source === null || navigator.clipboard === undefined) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(source.textContent.trim());
      const said = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = said; }, 2000);
    });
  }
}

/** Rows that a list which grows keeps. */
const MAX_ROWS = 200;

/** A moment to the second, as the pages tell it. */
const toTheSecond = (at) => at.slice(0, 19).replace("T", " ");

/** What a row tells of something, by the names of its fields. */
function told(entry) {
  const said = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  const detail = Object.entries(entry.detail ?? {}).filter(([, value]) => value !== null);
  return {
    ...entry,
    at: toTheSecond(entry.at),
    subject: [entry.upstream, entry.tool].filter(Boolean).join("/"),
    took: `${entry.elapsed_ms} ms`,
    detail: detail.map(([name, value]) => `${name}=${said(value).slice(0, 80)}`).join(" "),
  };
}

/** What hides itself in a text: controls, marks of direction, what has no shape. The pages write the same as numbers. */
const HIDDEN = new RegExp(
  "[\\p{Cc}\\u{ad}\\u{34f}\\u{61c}\\u{115f}\\u{1160}\\u{17b4}\\u{17b5}\\u{180b}-\\u{180f}\\u{200b}-\\u{200f}" +
    "\\u{2028}-\\u{202e}\\u{2060}-\\u{206f}\\u{3164}\\u{e000}-\\u{f8ff}\\u{fe00}-\\u{fe0f}\\u{feff}\\u{ffa0}" +
    "\\u{fff0}-\\u{fffb}\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e0fff}\\u{f0000}-\\u{10ffff}]",
  "gu",
);
const visible = (text) => String(text).replace(HIDDEN, (one) => `\\u{${one.codePointAt(0).toString(16)}}`);

/** The row of a template for an entry, with people by the names that the page knows. What stands in it is text, whoever chose it. */
function rowOf(template, entry, badges, names) {
  const row = template.content.firstElementChild.cloneNode(true);
  const fields = { ...told(entry), principal: names.get(entry.principal) ?? entry.principal };
  for (const place of row.querySelectorAll("[data-field]")) {
    place.textContent = visible(fields[place.dataset.field] ?? "");
    const badge = badges[fields[place.dataset.field]];
    if (place.classList.contains("badge") && badge) place.classList.add(badge);
    if (place instanceof HTMLTimeElement) place.dateTime = entry.at;
  }
  for (const link of row.querySelectorAll("a[data-href]")) {
    link.href = link.dataset.href + encodeURIComponent(entry[link.dataset.of]);
  }
  row.dataset.id = entry.id ?? entry.sequence;
  return row;
}

/** A list that grows: `data-tail` is a stream of events, `data-tail-row` the template of a row. It rests while nobody looks. */
function followTail(part) {
  const { tail, tailEvent, tailRows, tailRow, tailBadges, tailNames } = part.dataset;
  const rows = document.getElementById(tailRows);
  const template = document.getElementById(tailRow);
  const badges = JSON.parse(tailBadges ?? "{}");
  const names = new Map(Object.entries(JSON.parse(tailNames ?? "{}")));
  const [state, button] = [part.querySelector("[data-tail-state]"), part.querySelector("[data-tail-button]")];
  const seen = new Set([...rows.children].map((row) => row.dataset.id));
  let [source, after, isPaused] = [null, null, false];

  const add = (entry) => {
    const id = String(entry.id ?? entry.sequence);
    if (seen.has(id)) return;
    seen.add(id);
    rows.prepend(rowOf(template, entry, badges, names));
    rows.closest(".table").hidden = false;
    for (const empty of part.querySelectorAll("[data-tail-empty]")) empty.hidden = true;
    while (rows.children.length > MAX_ROWS) {
      seen.delete(rows.lastElementChild.dataset.id);
      rows.lastElementChild.remove();
    }
  };
  const close = () => {
    source?.close();
    source = null;
  };
  const open = () => {
    if (source !== null || isPaused || document.hidden) return;
    const address = new URL(tail, document.baseURI);
    if (after !== null) address.searchParams.set("after", after);
    source = new EventSource(address);
    source.addEventListener("begin", () => { state.textContent = "Live"; });
    source.addEventListener(tailEvent, (event) => {
      after = event.lastEventId;
      add(JSON.parse(event.data));
    });
    source.addEventListener("missed", (event) => {
      state.textContent = `Live; ${JSON.parse(event.data).count} were left out: load again for all`;
    });
    source.addEventListener("error", () => {
      // It comes back by itself, unless it was refused.
      state.textContent = source?.readyState === EventSource.CLOSED ? "Not live: load again" : "Waiting";
    });
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    isPaused = !isPaused;
    button.textContent = isPaused ? "Go on" : "Pause";
    state.textContent = isPaused ? "Paused" : "";
    if (isPaused) close(); else open();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close(); else open();
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  open();
}

/** Two fields that make a line of a text: `data-adds` names the text. Its parts are hidden where there are no scripts. */
function addLines() {
  for (const group of document.querySelectorAll("[data-adds]")) {
    const text = document.getElementById(group.dataset.adds);
    const [upstream, tools] = group.querySelectorAll("input");
    const button = group.querySelector("button");
    if (text === null || tools === undefined || button === null) continue;
    group.hidden = false;
    const add = () => {
      if (upstream.value.trim() === "") return upstream.focus();
      const line = `${upstream.value.trim()}: ${tools.value.trim() || "*"}`;
      text.value = `${text.value.trimEnd()}\n${line}`.trimStart();
      upstream.value = tools.value = "";
      upstream.focus();
    };
    button.addEventListener("click", add);
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target === button) return;
      event.preventDefault();
      add();
    });
  }
}

tellLocalTimes();
narrowLists();
copyByButton();
if (typeof EventSource === "function") {
  for (const part of document.querySelectorAll("[data-tail]")) followTail(part);
}
addLines();
