"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Colours written as "theme:name" in a figure follow the theme.
  const themed = (value) => {
    if (typeof value === "string" && value.startsWith("theme:")) return colour("--" + value.slice(6));
    if (Array.isArray(value)) return typeof value[value.length - 1] === "number" ? value : value.map(themed);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v)]));
    return value;
  };
  const layoutOf = (layout) => {
    const line = colour("--line"), narrow = window.innerWidth < 600;
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { color: colour("--ink"), size: narrow ? 11 : 12, family: "system-ui, sans-serif" },
      margin: { l: narrow ? 60 : 90, r: 20, t: 10, b: 45 }, hoverlabel: { font: { size: 12 } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    };
    const merged = { ...base, ...themed(layout), margin: { ...base.margin, ...(layout.margin || {}) } };
    for (const key of new Set(["xaxis", "yaxis", ...Object.keys(merged).filter((k) => /^[xy]axis\d*$/.test(k))])) {
      merged[key] = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, ...merged[key] };
    }
    return merged;
  };
  // The drawing library is large: it is read when the first figure is drawn, after the text is on the screen.
  const library = () => {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  };
  const draw = (place) => {
    place.dataset.begun = "yes";
    library();
    const { data, layout } = figures[place.dataset.figure];
    const options = { responsive: true, displaylogo: false, displayModeBar: false };
    Plotly.react(place, themed(data), layoutOf(layout), options).then(() => { place.dataset.drawn = "yes"; });
  };
  const places = [...document.querySelectorAll(".plot")];
  // What is seen is drawn first, the rest one by one while nothing else is done: a picture or print has no blanks.
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); setTimeout(draw, 0, entry.target); }
  }, { rootMargin: "300px" });
  places.forEach((place) => seen.observe(place));
  const redraw = () => places.filter((place) => place.dataset.drawn).forEach(draw);
  dark.addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => places.forEach(draw));
  const later = window.requestIdleCallback || ((work) => setTimeout(work, 50));
  const rest = () => {
    const place = places.find((each) => !each.dataset.begun);
    if (place) { seen.unobserve(place); draw(place); later(rest); }
  };
  later(rest);

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent.toLowerCase();
  };
  const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
      rows.sort(([a], [b]) => (up ? compare(a, b) : compare(b, a)));
      body.append(...rows.map(([, row]) => row));
    }));
    const filter = table.closest(".wide").querySelector(".filter");
    if (filter) filter.addEventListener("input", () => {
      const wanted = filter.value.toLowerCase();
      for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
  }
  // A study: choosing a row of the table shows all numbers of its point.
  const pointData = document.getElementById("point-data");
  if (pointData) {
    const numbers = JSON.parse(pointData.textContent), place = document.getElementById("point");
    const show = (point) => {
      const rows = Object.entries(numbers.points[point] || {}).map(([key, value]) => {
        const row = document.createElement("tr");
        row.title = key;
        for (const text of [numbers.labels[key] || key, value]) {
          const cell = document.createElement("td");
          cell.textContent = text;
          row.append(cell);
        }
        return row;
      });
      const heading = document.createElement("h3"), table = document.createElement("table");
      heading.textContent = "Point " + point;
      table.append(...rows);
      place.replaceChildren(heading, table);
      place.scrollIntoView({ behavior: "smooth", block: "nearest" });
    };
    for (const row of document.querySelectorAll("#points tbody tr")) {
      const first = row.cells[0], link = document.createElement("a");
      link.href = "#point-" + first.textContent;
      link.textContent = first.textContent;
      first.replaceChildren(link);
    }
    const follow = () => { const found = /^#point-(.+)$/.exec(location.hash); if (found) show(found[1]); };
    window.addEventListener("hashchange", follow);
    follow();
  }
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", () => {
      navigator.clipboard?.writeText(button.nextElementSibling.textContent);
      button.textContent = "copied";
    });
  }
  document.body.dataset.ready = "yes";
})();
