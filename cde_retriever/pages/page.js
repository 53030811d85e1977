"use strict";
const root = document.documentElement;
const figures = JSON.parse(document.getElementById("figures").textContent);
const wanted = matchMedia("(prefers-color-scheme: dark)");
function shown(layout) {
  const style = getComputedStyle(root);
  const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
  const out = Object.assign({ margin: { t: 20, r: 20 }, height: 420, autosize: true, legend: { orientation: "h", y: -0.25 } }, layout);
  out.paper_bgcolor = out.plot_bgcolor = "rgba(0,0,0,0)";
  out.font = { color: ink, family: "system-ui, sans-serif" };
  for (const name of ["xaxis", "yaxis"]) {
    out[name] = Object.assign({ gridcolor: line, zerolinecolor: ink, linecolor: line }, layout[name]);
  }
  return out;
}
function draw() {
  figures.forEach((figure, place) => {
    const layout = shown(figure.layout), box = document.getElementById("plot-" + place);
    box.style.height = layout.height + "px";  // or a plot that follows the window's width grows over what is below
    Plotly.react(box, figure.data, layout, { responsive: true, displayModeBar: false });
  });
}
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : wanted.matches;
  root.dataset.theme = dark ? "light" : "dark";
  draw();
});
for (const field of document.querySelectorAll(".filter")) {
  const rows = [...field.nextElementSibling.querySelectorAll("tbody tr")];
  field.addEventListener("input", () => {
    const asked = field.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(asked);
  });
}
for (const choice of document.querySelectorAll("form select")) {
  choice.addEventListener("change", () => choice.form.requestSubmit());
}
wanted.addEventListener("change", draw);
draw();
