"use strict";
const plots = JSON.parse(document.getElementById("plots").textContent);
const options = { renderer: "svg", actions: false };
for (const element of document.querySelectorAll("[data-plot]")) {
  vegaEmbed(element, plots[Number(element.dataset.plot)], options);
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
  const show = (view) => {
    const setting = settings[Number(slider.value)];
    put("dial-name", setting.name);
    put("dial-penalty", setting.penalty);
    slider.setAttribute("aria-valuetext", setting.name);
    fill("dial-measured", setting.measured);
    fill("dial-theory", setting.theory);
    const [x, y] = setting.place;
    view.data("ring", [{ x, y }]).runAsync();
    if (setting.answers.length) put("dial-at", setting.at);
    const answers = document.querySelectorAll(".answer");
    setting.answers.forEach(([text, note], index) => {
      answers[index].textContent = text;
      answers[index].nextElementSibling.textContent = note;
    });
  };
  vegaEmbed(element, plot, options).then(({ view }) => {
    slider.value = String(Math.floor(settings.length / 2));
    show(view);
    slider.addEventListener("input", () => show(view));
  });
}
