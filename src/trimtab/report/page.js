"use strict";
const plots = JSON.parse(document.getElementById("plots").textContent);
const config = { responsive: true, displaylogo: false, displayModeBar: false };
for (const element of document.querySelectorAll("[data-plot]")) {
  const { data, layout } = plots[Number(element.dataset.plot)];
  // A finger on a plot scrolls the page; a mouse zooms.
  layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  Plotly.newPlot(element, data, layout, config);
}
