"use strict";
(() => {
  const $ = (s, from = document) => from.querySelector(s);
  const list = $("#list"), rows = [...list.children], form = $("#filter");

  // What is folded stands in <noscript>, as text: it becomes elements when it is opened.
  const unfold = (details) => {
    const folded = $(":scope > noscript", details);
    if (!folded) return;
    const made = document.createElement("div");
    made.innerHTML = folded.textContent;
    folded.replaceWith(...made.children);
  };
  const panes = new Map();
  const code = (id) => {
    if (!panes.has(id)) {
      const details = document.getElementById(id), made = document.createElement("div");
      const folded = $(":scope > noscript", details);
      made.innerHTML = folded ? folded.textContent : "";
      panes.set(id, folded ? $(".panes", made) : $(".panes", details));
    }
    return panes.get(id).cloneNode(true);
  };
  const opened = (details) => {
    if (details.matches(".kernel")) code(details.id);
    unfold(details);
    const place = $(".code-place:empty", details);
    if (place) {
      place.append(code(place.dataset.k));
      const own = $(".own-source", details);
      if (own) {
        $(".pane", place).replaceWith(own.firstElementChild);
        own.remove();
      }
    }
    const cursor = $("#cursor");
    if (cursor && details.matches(".dispatch")) {
      const x = details.hasAttribute("data-load") ? -1 : Number(details.id.slice(1)) + 0.5;
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
    }
  };
  document.addEventListener("toggle", (e) => {
    if (e.target.open && e.target.matches(".dispatch, .kernel")) opened(e.target);
  }, true);

  // Lines of one statement, in all panes of a kernel.
  const mark = (line, hold) => {
    const room = line.closest(".panes"), own = new Set((line.dataset.s || "").split(" "));
    for (const l of room.querySelectorAll(".l.on")) l.classList.remove("on");
    if (!line.dataset.s) return;
    const found = [...room.querySelectorAll(".l[data-s]")]
      .filter((l) => l.dataset.s.split(" ").some((s) => own.has(s)));
    for (const l of found) l.classList.add("on");
    if (!hold) return;
    for (const pane of room.querySelectorAll(".pane")) {
      const first = found.find((l) => pane.contains(l)), view = $(".lines", pane);
      if (first && !pane.contains(line))
        view.scrollTo({ top: view.scrollTop + first.getBoundingClientRect().top
          - view.getBoundingClientRect().top - 60, behavior: "smooth" });
    }
  };
  document.addEventListener("mouseover", (e) => {
    const line = e.target.closest && e.target.closest(".l");
    if (line && !line.closest(".hold")) mark(line, false);
  });
  document.addEventListener("click", (e) => {
    const line = e.target.closest(".l");
    if (!line) return;
    const room = line.closest(".panes"), again = room.dataset.held === line.dataset.s;
    room.dataset.held = again ? "" : line.dataset.s || "";
    room.classList.toggle("hold", room.dataset.held !== "");
    mark(line, room.dataset.held !== "");
  });

  // Search, filters, order.
  const texts = new Map();
  const textOf = (row) => {
    if (!texts.has(row)) {
      const kernel = document.getElementById(row.dataset.k);
      texts.set(row, `${row.textContent} ${kernel.textContent}`
        .replace(/<[^>]*>/g, "").toLowerCase());
    }
    return texts.get(row);
  };
  const has = (words, word) => words.split("|").includes(word);
  const fits = (row, f) => {
    const [what, rule] = (f.rule || "").split("=");
    return (!f.definition || has(row.dataset.d, f.definition))
      && (!f.part || (f.part === "load") === row.hasAttribute("data-load"))
      && (!f.bound || row.dataset.b === f.bound)
      && (!rule || has(what === "fired" ? row.dataset.x : row.dataset.o, rule))
      && f.text.toLowerCase().split(/\s+/).every((word) => !word || textOf(row).includes(word));
  };
  let order = "n";
  const refresh = () => {
    const f = Object.fromEntries(new FormData(form));
    let count = 0, seconds = 0;
    for (const row of rows) {
      const fit = fits(row, f);
      row.hidden = !fit;
      if (fit) { count++; seconds += Number(row.dataset.t); }
    }
    if (f.sort !== order) {
      order = f.sort;
      const sorted = order === "n" ? rows
        : [...rows].sort((a, b) => (b.dataset[order] || 0) - (a.dataset[order] || 0));
      list.append(...sorted);
    }
    const unit = seconds >= 1 ? [1, "s"] : seconds >= 1e-3 ? [1e-3, "ms"] : [1e-6, "µs"];
    $("#count").textContent = count === rows.length ? ""
      : `${count} of ${rows.length}, ${(seconds / unit[0]).toPrecision(3)} ${unit[1]}`;
    $("#none").hidden = count > 0;
  };
  let later = 0;
  form.addEventListener("input", () => { clearTimeout(later); later = setTimeout(refresh, 80); });
  form.addEventListener("reset", () => setTimeout(refresh));
  form.addEventListener("submit", (e) => e.preventDefault());
  form.hidden = false;

  // Addresses: #d12 and #k3 open, #definition=…, #fired=… and #missed=… filter.
  const follow = () => {
    const [name, value] = decodeURIComponent(location.hash.slice(1)).split("=");
    if (["definition", "fired", "missed"].includes(name)) {
      form.reset();
      if (name === "definition") form.elements.definition.value = value;
      else form.elements.rule.value = `${name}=${value}`;
      refresh();
      $("#dispatches").scrollIntoView();
      return;
    }
    const target = name && document.getElementById(name);
    if (!target || !target.matches(".dispatch, .kernel")) return;
    if (target.hidden) { form.reset(); refresh(); }
    target.open = true;
    opened(target);
    target.scrollIntoView();
  };
  addEventListener("hashchange", follow);
  document.addEventListener("click", (e) => {
    const link = e.target.closest("a[href^='#']");
    if (link && link.getAttribute("href") === location.hash) follow();
  });

  const theme = $("#theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  refresh();
  follow();
})();
