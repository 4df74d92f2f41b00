// Everything here is an addition: without it all pages are whole, and filters, sorting and comparison work by forms and
// links. With it pages follow runs while they go, charts answer to the pointer, and selections last across pages.
"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
// Back shows a page as it was left, out of the browser's memory: what happened since then has passed it by.
const onReturn = (act) => window.addEventListener("pageshow", (event) => { if (event.persisted) act(); });
const store = {
  get(key) { try { return sessionStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { sessionStorage.setItem(key, value); } catch { /* forbidden */ } },
};

// Theme ---------------------------------------------------------------------------------------

function themeButton() {
  const button = document.getElementById("theme");
  if (!button) return;
  const order = ["auto", "light", "dark"];
  const say = () => {
    const now = document.documentElement.dataset.theme || "auto";
    button.querySelector("span").textContent = now;
    button.setAttribute("aria-label", `Theme: ${now}`);
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || "auto";
    const next = order[(order.indexOf(now) + 1) % order.length];
    if (next === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    try { localStorage.setItem("replicata-theme", next); } catch { /* forbidden */ }
    say();
  });
  say();
}

// The board's filter --------------------------------------------------------------------------

function boardFilter() {
  const form = document.getElementById("board-filter");
  if (!form) return;
  const apply = () => {
    const family = form.elements.family.value;
    const verdict = form.elements.verdict.value;
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const group of all("[data-family]")) {
      let some = 0;
      for (const row of all("[data-paper]", group)) {
        const text = row.dataset.text;
        const fits = (!family || group.dataset.family === family)
          && (!verdict || row.dataset.verdicts.split(" ").includes(verdict))
          && words.every((word) => text.includes(word));
        row.hidden = !fits;
        some += fits;
      }
      group.hidden = !some;
      shown += some;
    }
    document.getElementById("board-count").textContent = `${shown} of ${all("[data-paper]").length} papers`;
    document.getElementById("board-none").hidden = shown > 0;
    if (location.protocol !== "file:") {
      const said = new URLSearchParams(new FormData(form));
      for (const [key, value] of [...said]) if (!value) said.delete(key);
      history.replaceState(null, "", said.size ? `?${said}` : location.pathname);
    }
  };
  const said = new URLSearchParams(location.search);
  for (const key of ["family", "verdict", "text"]) if (said.has(key)) form.elements[key].value = said.get(key);
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  document.addEventListener("page-changed", apply);
  apply();
}

// Tables of static pages ----------------------------------------------------------------------

function sortableTables() {
  for (const table of all("table[data-sortable]")) {
    all("thead th", table).forEach((head, at) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[at].dataset.value ?? row.cells[at].textContent.trim();
        const rows = all("tbody tr", table).sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === "" || y === "") return (x === "") - (y === "");
          const [p, q] = [Number(x), Number(y)];
          const order = Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
          return down ? -order : order;
        });
        table.tBodies[0].append(...rows);
      });
    });
    const box = document.getElementById("table-filter");
    if (box) {
      box.addEventListener("input", () => {
        const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
        for (const row of all("tbody tr", table)) {
          const text = row.textContent.toLowerCase();
          row.hidden = !words.every((word) => text.includes(word));
        }
      });
    }
  }
}

// Choosing runs to compare ---------------------------------------------------------------------

function selection() {
  const form = document.getElementById("compare-form");
  if (!form || !document.getElementById("compare-bar")) return;
  const stored = () => new Set(JSON.parse(store.get("replicata-chosen") || "[]"));
  let chosen = stored();
  for (const box of all("input[name=run]:checked", form)) chosen.add(box.value);  // by someone faster than this script
  const bar = document.getElementById("compare-bar");
  const show = () => {
    for (const box of all("input[name=run]", form)) box.checked = chosen.has(box.value);
    document.getElementById("compare-count").textContent = chosen.size;
    document.getElementById("compare-go").disabled = chosen.size < 1;
    bar.classList.toggle("some", chosen.size > 0);
    store.set("replicata-chosen", JSON.stringify([...chosen]));
  };
  form.addEventListener("change", (event) => {
    if (event.target.name !== "run") return;
    if (event.target.checked) chosen.add(event.target.value);
    else chosen.delete(event.target.value);
    show();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.href = `${form.action}?${new URLSearchParams([...chosen].map((path) => ["run", path]))}`;
  });
  document.getElementById("compare-clear").addEventListener("click", () => { chosen.clear(); show(); });
  document.addEventListener("page-changed", show);
  onReturn(() => { chosen = stored(); show(); });
  show();
}

function filterForms() {
  for (const form of all("form[data-auto]")) {
    form.addEventListener("change", () => form.requestSubmit());
    form.addEventListener("submit", () => {  // an address without empty parts
      for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
    });
  }
  window.addEventListener("pageshow", () => {
    for (const form of all("form[data-auto]")) for (const field of form.elements) field.disabled = false;
  });
}

// Charts --------------------------------------------------------------------------------------

const digits = (value) => (Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3)
  ? value.toExponential(2) : String(Number(value.toPrecision(4))));

function charts() {
  document.addEventListener("click", (event) => {
    const key = event.target.closest("[data-toggle]");
    if (!key) return;
    const figure = key.closest("[data-chart]");
    const on = key.getAttribute("aria-pressed") !== "true";
    key.setAttribute("aria-pressed", on);
    for (const mark of all(`[data-series="${key.dataset.toggle}"]`, figure)) mark.classList.toggle("off", !on);
  });
  for (const [name, lit] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]]) {
    document.addEventListener(name, (event) => {
      const key = event.target.closest?.("[data-toggle]");
      if (!key) return;
      const figure = key.closest("[data-chart]");
      figure.classList.toggle("lit", lit);
      for (const mark of all(`[data-series="${key.dataset.toggle}"]`, figure)) mark.classList.toggle("lit", lit);
    });
  }
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const cross = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cross.setAttribute("class", "cross");
  const hide = () => { tip.hidden = true; cross.remove(); };
  document.addEventListener("pointermove", (event) => {
    const svg = event.target.closest?.("[data-chart] svg[data-box]");
    if (!svg) { hide(); return; }
    const [left, top, right, bottom] = svg.dataset.box.split(" ").map(Number);
    const area = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / area.width;
    const at = (event.clientX - area.left) * scale;
    if (at < left || at > right) { hide(); return; }
    const { x0, x1, y0, y1 } = Object.fromEntries(Object.entries(svg.dataset).map(([key, text]) => [key, Number(text)]));
    const found = [];
    let place = null;
    for (const line of all("polyline.line:not(.off)", svg)) {
      let best = null;
      for (const pair of line.getAttribute("points").split(" ")) {
        const [x, y] = pair.split(",").map(Number);
        if (best === null || Math.abs(x - at) < Math.abs(best[0] - at)) best = [x, y];
      }
      if (!best || Math.abs(best[0] - at) > (right - left) / 12) continue;
      if (place === null || Math.abs(best[0] - at) < Math.abs(place - at)) [place] = best;
      found.push([y0 + ((bottom - best[1]) / (bottom - top)) * (y1 - y0), line]);
    }
    if (!found.length) { hide(); return; }
    found.sort((a, b) => b[0] - a[0]);
    tip.replaceChildren();
    const head = document.createElement("strong");
    head.textContent = digits(x0 + ((place - left) / (right - left)) * (x1 - x0));
    tip.append(head);
    for (const [value, line] of found.slice(0, 12)) {
      const row = document.createElement("div");
      const mark = line.closest("[data-chart]").querySelector(`[data-toggle="${line.dataset.series}"] svg`).cloneNode(true);
      const name = document.createElement("span");
      name.textContent = line.dataset.name;
      const said = document.createElement("b");
      said.textContent = digits(value);
      row.append(mark, name, said);
      tip.append(row);
    }
    tip.hidden = false;
    const side = event.clientX + 18 + tip.offsetWidth > innerWidth ? -18 - tip.offsetWidth : 18;
    tip.style.left = `${event.clientX + side + scrollX}px`;
    tip.style.top = `${event.clientY + 14 + scrollY}px`;
    for (const [key, value] of [["x1", place], ["x2", place], ["y1", top], ["y2", bottom]]) cross.setAttribute(key, value);
    if (cross.parentNode !== svg) svg.append(cross);
  });
}

// Copying -------------------------------------------------------------------------------------

function copying() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = button.parentElement.querySelector("code").textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // an old browser, or a page from a file
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });
}

// Following runs ------------------------------------------------------------------------------

// Make one tree like another and leave alone what is the same: focus, scrolling and open parts stay.
function morph(from, to) {
  if (from.isEqualNode(to)) return;
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName || (from.id || "") !== (to.id || "")
    || (from.dataset?.key ?? "") !== (to.dataset?.key ?? "")) {
    from.replaceWith(to.cloneNode(true));
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
    return;
  }
  const kept = { INPUT: ["value", "checked"], DETAILS: ["open"], BUTTON: ["aria-pressed"] }[from.nodeName] || [];
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && !kept.includes(name)) from.removeAttribute(name);
  }
  for (const { name, value } of [...to.attributes]) {
    if (from.getAttribute(name) !== value && !kept.includes(name)) from.setAttribute(name, value);
  }
  const wanted = [...to.childNodes];
  const keyed = new Map(all(":scope > [data-key]", from).map((node) => [node.dataset.key, node]));
  wanted.forEach((node, at) => {
    const own = node.dataset?.key !== undefined ? keyed.get(node.dataset.key) : undefined;
    const here = from.childNodes[at];
    if (own && own !== here) from.insertBefore(own, here || null);
    const target = from.childNodes[at];
    if (target) morph(target, node);
    else from.append(node.cloneNode(true));
  });
  while (from.childNodes.length > wanted.length) from.lastChild.remove();
}

function following() {
  const main = document.querySelector("main[data-follows]");
  if (!main || !window.EventSource) return;
  const topics = main.dataset.follows.split(" ");
  const light = document.getElementById("live");
  let busy = false;
  let again = false;
  const renew = async () => {
    if (document.hidden) { again = true; return; }
    if (busy) { again = true; return; }
    busy = true;
    again = false;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const part of all("[data-live]")) {
          const fresh = page.getElementById(part.id);
          const log = part.querySelector("[data-tail]");
          const atEnd = log && log.scrollTop + log.clientHeight >= log.scrollHeight - 24;
          if (fresh) morph(part, fresh);
          if (atEnd) log.scrollTop = log.scrollHeight;
        }
        document.dispatchEvent(new Event("page-changed"));
      }
    } catch {
      // the server is gone; the event source says so
    }
    busy = false;
    if (again) renew();
  };
  const say = (word) => { light.dataset.state = word; light.querySelector("span").textContent = word; };
  let lost = false;
  const listen = () => {
    const source = new EventSource(`/events?since=${main.dataset.version}`);
    source.addEventListener("open", () => { say("live"); if (lost) renew(); lost = false; });
    source.addEventListener("error", () => { say("server stopped"); lost = true; });
    source.addEventListener("changed", (event) => {
      const changed = new Set(JSON.parse(event.data));
      if (changed.has("*") || topics.some((topic) => changed.has(topic))) renew();
    });
    window.addEventListener("pagehide", () => source.close(), { once: true });
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden && again) renew(); });
  onReturn(listen);
  listen();
  light.hidden = false;
}

for (const log of all("[data-tail]")) log.scrollTop = log.scrollHeight;
themeButton();
boardFilter();
sortableTables();
selection();
filterForms();
charts();
copying();
following();
