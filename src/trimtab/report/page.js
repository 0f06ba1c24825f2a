"use strict";
const byId = (id) => document.getElementById(id);
const dataOf = (id) => JSON.parse(byId(id)?.textContent ?? "null");
const make = (tag, text = "", name = "") => {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  return element;
};
const rowOf = (texts) => {
  const row = make("tr");
  row.append(...texts.map((text) => make("td", text)));
  return row;
};

// Rows of a plot's data are kept by column, and a text that many rows share once: packed.py.
const { plots, texts } = dataOf("plots");
const rowsIn = (data) => {
  if (Array.isArray(data)) return data;
  const columns = { ...data.values };
  for (const [field, places] of Object.entries(data.texts)) {
    columns[field] = places.map((place) => texts[place]);
  }
  const fields = Object.keys(columns);
  return columns[fields[0]].map((_, row) =>
    Object.fromEntries(fields.map((field) => [field, columns[field][row]])));
};
for (const plot of plots) {
  for (const [name, data] of Object.entries(plot.datasets)) plot.datasets[name] = rowsIn(data);
}
const options = { renderer: "svg", actions: false };
for (const element of document.querySelectorAll("[data-plot]")) {
  vegaEmbed(element, plots[Number(element.dataset.plot)], options);
}

// Tables: a head sorts its column, a button saves all of it.
const numberIn = (text) => {
  const found = text.replaceAll(",", "").replaceAll("−", "-").match(/-?\+?[\d.]+(e-?\d+)?|∞/);
  if (!found) return null;
  return found[0] === "∞" ? Infinity : Number(found[0].replace("+", ""));
};
const sortBy = (table, column, ascending) => {
  const body = table.tBodies[0];
  const cell = (row) => row.cells[column].textContent.trim();
  const isNumeric = table.tHead.rows[0].cells[column].classList.contains("number");
  const sign = ascending ? 1 : -1;
  const compare = (a, b) => {
    if (!isNumeric) return sign * cell(a).localeCompare(cell(b), "en", { numeric: true });
    const [x, y] = [numberIn(cell(a)), numberIn(cell(b))];
    return x === null || y === null ? (x === null) - (y === null) : sign * (x - y) || 0;
  };
  body.append(...[...body.rows].sort(compare));
};
const csvOf = (table) => {
  const interval = /^(.*?) ?\[(.*), (.*)\]$/;
  const rows = [...table.rows].map((row) => [...row.cells].map((cell) =>
    cell.textContent.trim().replaceAll("\u00a0", " ").replaceAll("−", "-")));
  rows[0] = rows[0].map((head, column, all) => head === "change" ? `${all[column - 1]}, change` : head);
  const hasInterval = rows[0].map((_, column) => rows.some((row) => interval.test(row[column])));
  const spread = rows.map((row, line) => row.flatMap((text, column) => {
    if (!hasInterval[column]) return [text];
    if (line === 0) return [text, `${text} low`, `${text} high`];
    return interval.exec(text)?.slice(1) ?? [text, "", ""];
  }));
  return spread.map((row) => row.map((text) => `"${text.replaceAll('"', '""')}"`).join(",")).join("\r\n");
};
for (const table of document.querySelectorAll(".scroll table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", head.textContent);
    button.type = "button";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortBy(table, column, ascending);
    });
  });
  const save = make("a", "Download as CSV", "csv");
  save.href = "#";
  save.download = `${table.closest("section").querySelector("h2").id}.csv`;
  save.addEventListener("click", () => {
    save.href = URL.createObjectURL(new Blob([csvOf(table)], { type: "text/csv" }));
  });
  table.parentElement.previousElementSibling.append(" ", save);
}

// A table that its box cuts says how many rows lie below.
for (const box of document.querySelectorAll(".scroll")) {
  const rows = box.querySelectorAll("tbody tr");
  const hint = make("div", "", "more");
  hint.setAttribute("aria-hidden", "true");
  box.append(hint);
  const tell = () => {
    hint.hidden = box.scrollHeight - hint.offsetHeight <= box.clientHeight;
    const end = box.getBoundingClientRect().bottom - hint.offsetHeight;
    const below = [...rows].filter((row) => row.getBoundingClientRect().bottom > end + 2).length;
    hint.textContent = below ? `${below} more ${below === 1 ? "row" : "rows"}: scroll ↓` : "";
  };
  box.addEventListener("scroll", tell, { passive: true });
  new ResizeObserver(tell).observe(box);
}

const choice = dataOf("choice-data");
if (choice) {
  const table = document.querySelector(".choices table");
  const rows = [...table.tBodies[0].rows]; // in the order of the options, however sorted
  const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent);
  const selects = document.querySelectorAll(".choose-from");
  let chosen = choice.first;
  let view = null;

  const readout = () => {
    const cells = [...rows[chosen].cells].map((cell) => cell.textContent.trim());
    const lines = [];
    for (let column = 1; column < heads.length; column += 1) {
      const hasChange = heads[column + 1] === "change";
      const change = hasChange && cells[column + 1] !== "–" ? cells[column + 1] : "";
      lines.push(rowOf([heads[column], cells[column], change]));
      column += hasChange;
    }
    return lines;
  };

  const { answers } = choice;
  const answersOf = (place) => {
    const model = place === null ? null : choice.options[place].models.find((one) => answers.answers[one]);
    return model ? answers.answers[model] : null;
  };
  const disagree = (places) => new Set(places.filter((one) => one !== null)).size > 1;
  const answered = (place, [text, , places]) => {
    const block = make("div", "", "answered");
    block.append(make("h4", choice.options[place].name));
    const told = make("p", "", "outcomes");
    answers.judges.forEach((judge, number) => {
      if (places[number] === null) return;
      const outcome = answers.outcomes[places[number]];
      const name = `verdict ${outcome.replaceAll(" ", "-")}`;
      told.append(make("span", answers.judges.length > 1 ? `${judge}: ${outcome}` : outcome, name));
    });
    block.append(told, make("p", text || "(an empty answer)", "said"));
    return block;
  };
  const showAnswers = () => {
    if (!answers) return;
    const own = answersOf(chosen);
    const { start, plain } = choice.options[chosen];
    const shown = [...new Set([start, plain, chosen])].filter((place) => answersOf(place));
    const kind = byId("by-kind").value;
    const outcome = byId("by-outcome").value;
    const apart = byId("by-disagreement")?.checked;
    const cards = answers.prompts.flatMap((prompt, number) => {
      const places = own?.[number][2] ?? [];
      if (kind && prompt.kind !== kind) return [];
      if (outcome && !places.includes(Number(outcome))) return [];
      if (apart && !disagree(places)) return [];
      const card = make("article");
      const asked = make("p", "", "asked");
      asked.append(make("span", prompt.kind, `kind ${prompt.kind}`), ` ${prompt.text}`);
      const beside = make("div", "", "beside");
      beside.append(...shown.map((place) => answered(place, answersOf(place)[number])));
      card.append(asked, beside);
      return [card];
    });
    const none = own ? "No prompt is left by these filters." : "No answers of this model were kept.";
    byId("answers-list").replaceChildren(...(own && cards.length ? cards : [make("p", none, "note")]));
    byId("answers-shown").textContent = `${own ? cards.length : 0} of ${answers.prompts.length} prompts`;
  };

  const choose = (place) => {
    chosen = place;
    selects.forEach((select) => { select.value = String(place); });
    rows.forEach((row, number) => row.classList.toggle("is-chosen", number === place));
    rows.forEach((row, number) =>
      row.querySelector("button").setAttribute("aria-pressed", String(number === place)));
    document.querySelectorAll(".chosen-readout").forEach((box) => box.replaceChildren(...readout()));
    const at = choice.options[place].place;
    view?.data("ring", at ? [{ x: at[0], y: at[1] }] : []).runAsync();
    showAnswers();
  };

  for (const select of selects) {
    select.append(...choice.options.map((one, place) => new Option(one.name, String(place))));
    select.addEventListener("change", () => choose(Number(select.value)));
  }
  table.addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr");
    if (row) choose(rows.indexOf(row));
  });
  for (const id of ["by-kind", "by-outcome", "by-disagreement"]) {
    byId(id)?.addEventListener("change", showAnswers);
  }
  if (choice.plot !== null) {
    vegaEmbed(byId("choice-plot"), plots[choice.plot], options).then((drawn) => {
      view = drawn.view;
      view.addEventListener("click", (_, item) => {
        const { x, y } = item?.datum ?? {};
        const place = choice.options.findIndex((one) => one.place?.[0] === x && one.place[1] === y);
        if (place >= 0) choose(place);
      });
      choose(chosen);
    });
  }
  choose(chosen);
}

const dial = dataOf("dial-data");
if (dial) {
  const { plot, settings } = dial;
  const slider = byId("alpha");
  const put = (id, text) => { byId(id).textContent = text; };
  const fill = (id, lines) => byId(id)?.replaceChildren(...lines.map(rowOf));
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
  vegaEmbed(byId("dial-plot"), plots[plot], options).then(({ view }) => {
    slider.value = String(Math.floor(settings.length / 2));
    show(view);
    slider.addEventListener("input", () => show(view));
  });
}
