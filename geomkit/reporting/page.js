"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const views = new Map();

  // What a control is set to: a truth, or one of its options.
  const valueOf = (input) => {
    if (input.type === "checkbox") return input.checked;
    if (input.type === "range") return JSON.parse(input.dataset.options)[Number(input.value)][0];
    return JSON.parse(input.value);
  };

  const specOf = (chart) => specs[chart.id.replace("chart-", "")];

  const apply = (input, chart) => {
    const name = input.dataset.name;
    if (specOf(chart).params?.some((each) => each.name === name)) views.get(chart).signal(name, valueOf(input));
  };

  // Charts are drawn when they come near: the first of them at once.
  const draw = async (chart) => {
    const { view } = await vegaEmbed(chart, specOf(chart), { renderer: "svg", actions: false, hover: false });
    views.set(chart, view);
    // The figure's own label says what there is to see.
    chart.querySelector("svg").setAttribute("aria-hidden", "true");
    for (const input of chart.closest("section").querySelectorAll("[data-name]")) apply(input, chart);
    await view.runAsync();
    chart.dataset.drawn = "yes";
  };
  const begun = new WeakSet();
  const once = async (chart) => {
    if (begun.has(chart)) return;
    begun.add(chart);
    await draw(chart).catch((why) => console.error(why));
  };
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) once(target);
  }, { rootMargin: "600px" });
  const all = [...document.querySelectorAll(".chart")];
  for (const chart of all) near.observe(chart);
  // What is on no hidden panel comes next, one by one while nothing else is to do: a printer waits for nothing.
  const idle = window.requestIdleCallback ?? ((call) => setTimeout(call, 50));
  const next = async () => {
    const chart = all.find((each) => each.offsetParent && !begun.has(each));
    if (!chart) return;
    await once(chart);
    idle(next);
  };

  const change = (input) => {
    const section = input.closest("section");
    const value = JSON.stringify(valueOf(input));
    if (input.type === "range") {
      const named = JSON.parse(input.dataset.options)[Number(input.value)][1];
      input.setAttribute("aria-valuetext", named);
      section.querySelector(`output[for="${input.id}"]`).textContent = named;
    }
    for (const panel of section.querySelectorAll(`.panel[data-control="${input.dataset.name}"]`)) {
      panel.hidden = JSON.stringify(JSON.parse(panel.dataset.value)) !== value;
    }
    for (const chart of section.querySelectorAll(".chart")) {
      if (!views.has(chart)) continue;
      apply(input, chart);
      views.get(chart).runAsync().catch((why) => console.error(why));
    }
    // A chart that was hidden had no width, or is not drawn.
    window.dispatchEvent(new Event("resize"));
    idle(next);
  };

  for (const input of document.querySelectorAll("[data-name]")) {
    input.addEventListener("input", () => change(input));
    change(input);
  }

  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    if (a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return String(a).localeCompare(String(b));
  };
  const isNothing = (key) => key === "" || key === "nan";
  for (const button of document.querySelectorAll(".sort")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const at = head.cellIndex;
      const body = head.closest("table").tBodies[0];
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [row.cells[at].dataset.key, row]);
      rows.sort(([a], [b]) => {
        // What is not there is last, whichever way.
        if (isNothing(a) || isNothing(b)) return isNothing(a) - isNothing(b);
        return down ? compare(b, a) : compare(a, b);
      });
      body.append(...rows.map(([, row]) => row));
    });
  }

  const theme = document.getElementById("theme");
  theme.addEventListener("input", () => {
    document.documentElement.style.colorScheme = theme.value;
  });

  idle(next);
})();
