"use strict";
// Draws the figures of this page. Asks the network for nothing: plotly lies in the page, compressed.
(() => {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const byId = new Map(figures.map((figure) => [figure.id, figure]));
  const dashes = ["circle", "square", "diamond", "cross", "triangle-up", "x"];
  let axis = "step";
  let plotly = null;

  const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const palette = (index) => color(`--c${index % 6}`);

  async function unpackPlotly() {
    const packed = document.getElementById("plotly");
    if (!packed) return null;
    const bytes = Uint8Array.from(atob(packed.textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    packed.remove();
    return window.Plotly;
  }

  function traceOf(figure, trace, index) {
    const own = { ...trace };
    const ink = palette(trace.color || 0);
    const xs = (figure.xs || [])[index];
    if (xs) own.x = xs[axis] || xs.step;
    delete own.color;
    if (trace.type === "bar") {
      own.marker = { color: ink };
      if (trace.pattern) own.marker.pattern = { shape: trace.pattern, fillmode: "overlay", fgcolor: color("--back"), size: 5 };
      delete own.pattern;
    }
    else if (trace.symbols) {
      const ring = (_, i) => i === trace.ring;
      own.marker = {
        color: ink,
        symbol: trace.symbols,
        size: trace.symbols.map((s, i) => (ring(s, i) ? 17 : 11)),
        line: { width: trace.symbols.map((s, i) => (ring(s, i) ? 4 : 2)), color: trace.symbols.map((s, i) => (ring(s, i) ? palette(1) : ink)) },
      };
      if (trace.line) own.line = { ...trace.line, color: ink };
      own.error_x = { ...trace.error_x, color: color("--soft"), thickness: 1 };
      own.error_y = { ...trace.error_y, color: color("--soft"), thickness: 1 };
      delete own.symbols;
      delete own.ring;
    } else {
      own.line = { ...trace.line, color: ink };
      own.marker = { color: ink, symbol: dashes[(trace.color || 0) % dashes.length], size: 7 };
    }
    return own;
  }

  const wall = (x, name) => ({
    shape: { type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: color("--worse"), width: 2, dash: "dash" } },
    label: { x, yref: "paper", y: 0, text: name, showarrow: false, xanchor: "left", yanchor: "bottom", xshift: 4, font: { color: color("--worse") } },
  });

  function layoutOf(figure) {
    const { marks = [], wall: bound, limit, ...layout } = figure.layout;
    const line = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--soft"), automargin: true };
    const shapes = [];
    const annotations = [];
    if (axis === "step") {
      for (const mark of marks) {
        shapes.push({ type: "line", x0: mark.x, x1: mark.x, yref: "paper", y0: 0, y1: 1, line: { color: color("--soft"), width: 1, dash: "dot" } });
        annotations.push({ x: mark.x, yref: "paper", y: 1, text: mark.text, showarrow: false, yanchor: "bottom", font: { color: color("--soft"), size: 12 } });
      }
    }
    for (const [x, name] of [[bound, "bound"], [limit, "your limit"]]) {
      if (x === null || x === undefined) continue;
      const made = wall(x, name);
      shapes.push(made.shape);
      if (x === bound) Object.assign(made.label, { y: 1, yanchor: "top" });
      annotations.push(made.label);
    }
    const titles = { step: "step", hours: "hours", tokens: "tokens" };
    const xaxis = { ...line, ...layout.xaxis };
    if ((figure.xs || []).length) xaxis.title = { text: titles[axis] };
    return {
      ...layout,
      xaxis,
      yaxis: { ...line, ...layout.yaxis },
      ...(layout.yaxis2 ? { yaxis2: { ...line, ...layout.yaxis2 } } : {}),
      shapes,
      annotations,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--ink"), family: getComputedStyle(document.body).fontFamily, size: 12 },
      hoverlabel: { bgcolor: color("--raised"), bordercolor: color("--line"), font: { color: color("--ink") } },
      margin: { l: 56, r: layout.yaxis2 ? 60 : 18, t: 18, b: 40 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      hovermode: figure.id === "pareto" || layout.barmode ? "closest" : "x unified",
      autosize: true,
    };
  }

  const options = { responsive: true, displaylogo: false, displayModeBar: false };

  function draw(place) {
    const figure = byId.get(place.dataset.figure);
    const data = figure.data.map((trace, index) => traceOf(figure, trace, index));
    return plotly.react(place, data, layoutOf(figure), options);
  }

  async function drawAll() {
    if (!plotly) return;
    for (const place of document.querySelectorAll(".plot")) await draw(place);
  }

  function isDark() {
    const chosen = root.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  // A page opened from a file may have no storage; the choice then lasts as long as the page.
  const remembered = {
    get() { try { return localStorage.getItem("posttrain-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("posttrain-theme", value); } catch { /* no storage */ } },
  };

  function setTheme(theme) {
    root.dataset.theme = theme;
    drawAll();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.action === "theme") {
      const theme = isDark() ? "light" : "dark";
      remembered.set(theme);
      setTheme(theme);
    } else if (button.dataset.action === "print") window.print();
    else if (button.dataset.axis) {
      axis = button.dataset.axis;
      for (const other of document.querySelectorAll("[data-axis]")) other.setAttribute("aria-pressed", String(other === button));
      drawAll();
    } else if (button.dataset.copy) {
      navigator.clipboard?.writeText(button.dataset.copy).then(() => { button.textContent = "copied"; });
    }
  });

  document.addEventListener("toggle", (event) => {
    if (plotly && event.target.open) for (const place of event.target.querySelectorAll(".plot")) plotly.Plots.resize(place);
  }, true);

  // On paper: white, every fold open, and as it was afterwards.
  let folded = [];
  let themeBefore;
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const fold of folded) fold.open = true;
    themeBefore = root.dataset.theme;
    setTheme("light");
  });
  window.addEventListener("afterprint", () => {
    for (const fold of folded) fold.open = false;
    if (themeBefore) setTheme(themeBefore);
    else { delete root.dataset.theme; drawAll(); }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

  function openTarget() {
    const target = location.hash ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
    if (target instanceof HTMLDetailsElement) target.open = true;
  }
  window.addEventListener("hashchange", openTarget);
  openTarget();

  const refresh = Number(document.body.dataset.refresh);
  if (refresh > 0) setTimeout(() => location.reload(), refresh * 1000);

  const theme = remembered.get();
  if (theme) root.dataset.theme = theme;
  unpackPlotly().then((found) => { plotly = found; return drawAll(); });
})();
