// Theme and plots. Figures bring no colours: they are read from the style sheet, so that one
// place decides for light, dark and paper.
(() => {
  "use strict";
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const themes = ["system", "light", "dark"];
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  const figures = [...document.querySelectorAll("script[data-plot]")].map((script) => ({
    place: document.getElementById(script.dataset.plot),
    figure: JSON.parse(script.textContent),
  }));

  const axis = (given) => ({
    ...given,
    automargin: true,
    gridcolor: colour("--grid"),
    linecolor: colour("--line"),
    zerolinecolor: colour("--line"),
    tickcolor: colour("--line"),
  });

  // meta: the number of a colour; -1 neutral; -2 a key, which is outlined on paper.
  const trace = (given) => {
    const ink = given.meta < 0 ? colour("--ink") : colour(`--s${given.meta}`);
    const edge = { color: ink, width: given.marker?.line?.width ?? 0 };
    return {
      ...given,
      line: { ...given.line, color: ink },
      marker: { ...given.marker, color: given.meta === -2 ? colour("--paper") : ink, line: edge },
      textfont: { color: colour("--ink"), size: 13 },
    };
  };

  const draw = () => {
    for (const { place, figure } of figures) {
      const narrow = place.clientWidth < 520;
      const layout = {
        ...figure.layout,
        autosize: true,
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 12 : 13, color: colour("--ink") },
        hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
        xaxis: axis(figure.layout.xaxis),
        yaxis: axis(figure.layout.yaxis),
        legend: { ...figure.layout.legend, y: narrow ? -0.3 : -0.22, font: { size: narrow ? 11 : 12 } },
        margin: narrow ? { l: 48, r: 12, t: 16, b: 48 } : figure.layout.margin,
      };
      Plotly.react(place, figure.data.map(trace), layout, { responsive: true, displayModeBar: false });
    }
  };

  const show = (theme) => {
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    draw();
  };

  // A page opened from a file may have no storage; the theme is then forgotten, no more.
  const stored = () => {
    try { return localStorage.getItem("cpool-theme"); } catch { return null; }
  };
  const keep = (theme) => {
    try { localStorage.setItem("cpool-theme", theme); } catch { /* see above */ }
  };

  let theme = themes.includes(stored()) ? stored() : "system";
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    keep(theme);
    show(theme);
  });
  system.addEventListener("change", () => show(theme));
  addEventListener("beforeprint", () => { root.dataset.theme = "light"; draw(); });
  addEventListener("afterprint", () => show(theme));
  show(theme);
  document.getElementById("no-script").remove(); // all is drawn; no <noscript>, which a failure leaves mute
})();
