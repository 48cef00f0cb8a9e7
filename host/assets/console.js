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
addLines();
