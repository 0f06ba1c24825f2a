"use strict";
const plots = JSON.parse(document.getElementById("plots").textContent);
const config = { responsive: true, displaylogo: false, displayModeBar: false };
for (const element of document.querySelectorAll("[data-plot]")) {
  const { data, layout } = plots[Number(element.dataset.plot)];
  // A finger on a plot scrolls the page; a mouse zooms.
  layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  Plotly.newPlot(element, data, layout, config);
}

const dialData = document.getElementById("dial-data");
if (dialData) {
  const { plot, settings } = JSON.parse(dialData.textContent);
  const element = document.getElementById("dial-plot");
  const slider = document.getElementById("alpha");
  const put = (id, text) => { document.getElementById(id).textContent = text; };
  const fill = (id, lines) => {
    const rows = lines.map((line) => {
      const row = document.createElement("tr");
      row.append(...line.map((text) => {
        const cell = document.createElement("td");
        cell.textContent = text;
        return cell;
      }));
      return row;
    });
    document.getElementById(id)?.replaceChildren(...rows);
  };
  const show = () => {
    const setting = settings[Number(slider.value)];
    put("dial-name", setting.name);
    put("dial-penalty", setting.penalty);
    slider.setAttribute("aria-valuetext", setting.name);
    fill("dial-measured", setting.measured);
    fill("dial-theory", setting.theory);
    const [x, y] = setting.place;
    Plotly.restyle(element, { x: [[x]], y: [[y]] }, [plot.data.length - 1]);
    if (setting.answers.length) put("dial-at", setting.at);
    const answers = document.querySelectorAll(".answer");
    setting.answers.forEach(([text, note], index) => {
      answers[index].textContent = text;
      answers[index].nextElementSibling.textContent = note;
    });
  };
  plot.layout.dragmode = false;
  Plotly.newPlot(element, plot.data, plot.layout, config).then(() => {
    slider.value = String(Math.floor(settings.length / 2));
    show();
    slider.addEventListener("input", show);
  });
}
