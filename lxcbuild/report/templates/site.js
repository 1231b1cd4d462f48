"use strict";
(() => {
  const page = document.documentElement, root = page.dataset.root || "";
  const remember = (value) => { try { localStorage.setItem("lxcbuild-theme", value); } catch { /* a file may have no storage */ } };
  try { const kept = localStorage.getItem("lxcbuild-theme"); if (kept) page.dataset.theme = kept; } catch { /* as above */ }
  document.getElementById("theme").addEventListener("click", () => {
    const dark = page.dataset.theme ? page.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    page.dataset.theme = dark ? "light" : "dark";
    remember(page.dataset.theme);
  });
  const field = document.getElementById("q"), hits = document.getElementById("hits"), most = 150;
  const pieces = new Map();
  let total = 0, count = -1;
  const load = (name) => { const tag = document.createElement("script"); tag.src = `${root}search/${name}.js`; document.head.append(tag); };
  window.lxcbuildPieces = (number, projects) => { count = number; total = projects; for (let i = 0; i < number; i++) load(i); show(); };
  window.lxcbuildPiece = (number, rows) => { pieces.set(number, rows); show(); };
  const show = () => {
    const text = field.value.trim().toLowerCase().replace(/[-_.\s]+/g, "-");
    hits.hidden = text === "";
    if (hits.hidden) return;
    const starts = [], holds = [];
    for (const rows of [...pieces.keys()].sort((a, b) => a - b).map((key) => pieces.get(key)))
      for (const row of rows) {
        const at = row[0].toLowerCase().indexOf(text);
        if (at === 0) starts.push(row); else if (at > 0) holds.push(row);
      }
    const found = starts.concat(holds), list = document.createElement("ul");
    for (const [name, slug, version, states] of found.slice(0, most)) {
      const item = document.createElement("li"), link = document.createElement("a");
      link.href = `${root}projects/${slug}.html`;
      link.textContent = `${name} ${version}`;
      item.append(link);
      for (const [suite, state] of states) {
        const mark = document.createElement("span");
        mark.className = `status ${state}`; mark.title = `${suite}: ${state}`;
        mark.setAttribute("role", "img"); mark.setAttribute("aria-label", mark.title);
        item.append(" ", mark);
      }
      list.append(item);
    }
    const line = document.createElement("p");
    line.className = "note";
    line.textContent = pieces.size === count ? `${found.length} of ${total} projects` + (found.length > most ? `, the first ${most} shown` : "") : "loading …";
    hits.replaceChildren(line, list);
  };
  let asked = false;
  const ask = () => { if (!asked) { asked = true; load("index"); } };
  field.addEventListener("focus", ask);
  field.addEventListener("input", () => { ask(); show(); });
  document.addEventListener("keydown", (event) => { if (event.key === "/" && document.activeElement !== field && !event.ctrlKey) { event.preventDefault(); field.focus(); } });
  const given = new URLSearchParams(location.search).get("q");
  if (given) { field.value = given; ask(); show(); }
})();
