"use strict";

// The picture: what is seen of it is the svg's viewBox, in the picture's own pixels.
for (const section of document.querySelectorAll("section.graph")) {
  const svg = section.querySelector("svg");
  const full = { width: Number(section.dataset.width), height: Number(section.dataset.height) };
  const largestScale = 4;
  const readableScale = 0.6;
  let view = { x: 0, y: 0, width: full.width, height: full.height };

  const pane = () => ({ width: svg.clientWidth || full.width, height: svg.clientHeight || full.height });
  const show = () => svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  const setScale = (scale, centerX, centerY) => {
    const { width, height } = pane();
    const smallest = Math.min(width / full.width, height / full.height, 1) * 0.5;
    const bounded = Math.min(largestScale, Math.max(smallest, scale));
    view = { x: centerX - width / bounded / 2, y: centerY - height / bounded / 2, width: width / bounded, height: height / bounded };
    show();
  };
  const scale = () => pane().width / view.width;
  const fit = () => {
    const { width, height } = pane();
    setScale(Math.min(width / full.width, height / full.height, 1), full.width / 2, full.height / 2);
  };
  // Zooms so that the given point of the picture stays where it is on the screen.
  const zoom = (factor, x = view.x + view.width / 2, y = view.y + view.height / 2) => {
    const before = scale();
    const shareX = (x - view.x) / view.width;
    const shareY = (y - view.y) / view.height;
    setScale(before * factor, x, y);
    view.x = x - shareX * view.width;
    view.y = y - shareY * view.height;
    show();
  };
  const move = (screenX, screenY) => {
    view.x += screenX / scale();
    view.y += screenY / scale();
    show();
  };
  const pointOf = (event) => {
    const box = svg.getBoundingClientRect();
    return [view.x + (event.clientX - box.left) / scale(), view.y + (event.clientY - box.top) / scale()];
  };
  // A large graph opens at its inputs in a size that can be read; "Fit" shows all of it.
  const start = () => {
    fit();
    if (scale() < readableScale) {
      const first = svg.querySelector(".box rect").getBBox();
      setScale(readableScale, first.x + first.width / 2, 0);
      view.y = 0;
      show();
    }
  };

  const commands = { in: () => zoom(1.3), out: () => zoom(1 / 1.3), fit };
  section.querySelector(".toolbar").hidden = false;
  for (const button of section.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => commands[button.dataset.zoom]());
  }
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== svg) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...pointOf(event));
  }, { passive: false });
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-60, 0], ArrowRight: [60, 0], ArrowUp: [0, -60], ArrowDown: [0, 60] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "+" || event.key === "=") zoom(1.3);
    else if (event.key === "-") zoom(1 / 1.3);
    else if (event.key === "0") fit();
    else if (event.key in steps) move(...steps[event.key]);
    else return;
    event.preventDefault();
  });

  // One pointer moves the picture, two zoom it. What moved less than a few pixels was a click.
  const pointers = new Map();
  let dragged = 0;
  svg.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, event);
    if (pointers.size === 1) dragged = 0;
    svg.focus({ preventScroll: true });
  });
  svg.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    if (pointers.size === 1) {
      const [x, y] = [last.clientX - event.clientX, last.clientY - event.clientY];
      dragged += Math.abs(x) + Math.abs(y);
      if (dragged > 4) {
        if (!svg.hasPointerCapture(event.pointerId)) svg.setPointerCapture(event.pointerId);
        svg.classList.add("moving");
        move(x, y);
      }
    } else {
      const other = [...pointers.values()].find((each) => each.pointerId !== event.pointerId);
      const distance = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY) || 1;
      zoom(distance(event) / distance(last), ...pointOf(other));
      dragged = Infinity;
    }
    pointers.set(event.pointerId, event);
  });
  const release = (event) => {
    pointers.delete(event.pointerId);
    svg.classList.remove("moving");
  };
  svg.addEventListener("pointerup", release);
  svg.addEventListener("pointercancel", release);

  const choose = (element) => {
    for (const each of svg.querySelectorAll(".chosen, .near")) each.classList.remove("chosen", "near");
    for (const each of section.querySelectorAll(".details > div")) each.hidden = true;
    if (!element) return;
    element.classList.add("chosen");
    document.getElementById(element.dataset.details).hidden = false;
    for (const edge of svg.querySelectorAll(".edge")) {
      const name = element.dataset.name;
      if (name !== undefined && (edge.dataset.source === name || edge.dataset.target === name)) edge.classList.add("near");
    }
  };
  svg.addEventListener("click", (event) => {
    if (dragged <= 4) choose(event.target.closest("[data-details]"));
  });
  for (const box of svg.querySelectorAll(".box")) {
    box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(box);
    });
    // The browser cannot scroll to a box that lies outside of the viewBox.
    box.addEventListener("focus", () => {
      if (!box.matches(":focus-visible")) return;
      const place = box.querySelector("rect").getBBox();
      const [x, y] = [place.x + place.width / 2, place.y + place.height / 2];
      if (x < view.x || x > view.x + view.width || y < view.y || y > view.y + view.height) setScale(scale(), x, y);
    });
  }
  // Where the details stand beside the picture, they start with the first segment; below it they would push the rest away.
  if (window.matchMedia("(min-width: 900px)").matches) choose(svg.querySelector(".box.adopted, .box.possible, .box.rejected"));
  let before = view;
  window.addEventListener("beforeprint", () => {
    before = view;
    view = { x: 0, y: 0, ...full };
    show();
  });
  window.addEventListener("afterprint", () => {
    view = before;
    show();
  });
  section.start = start;
  let width = 0;
  new ResizeObserver(() => {
    if (svg.clientWidth === width || !svg.clientWidth) return;
    width = svg.clientWidth;
    start();
  }).observe(svg);
  start();
}

// The nodes that stay TensorFlow: names are written into the page when their group is opened, and a part at a time.
for (const section of document.querySelectorAll("section.refused")) {
  const data = document.getElementById(section.dataset.nodes);
  if (!data) continue;
  const part = 200;
  const groups = JSON.parse(data.textContent).map((group, number) => ({
    ...group,
    element: section.querySelector(`[data-group="${number}"]`),
    head: `${group.op}\n${group.category}`.toLowerCase(),
    lowered: group.reasons.map((reason) => reason.toLowerCase()),
    found: group.nodes,
  }));
  const total = groups.reduce((sum, group) => sum + group.nodes.length, 0);
  const input = section.querySelector("input");
  const output = section.querySelector("output");
  const buttons = [...section.querySelectorAll("[data-category]")];

  const item = (text, className = "") => {
    const element = document.createElement("li");
    element.textContent = text;
    element.className = className;
    return element;
  };
  const fill = (group, from = 0) => {
    const list = group.element.querySelector("ul");
    if (from === 0) list.replaceChildren();
    for (const [name, reason] of group.found.slice(from, from + part)) {
      const element = item(name);
      if (group.reasons.length > 1) element.append(Object.assign(document.createElement("div"), { className: "reason", textContent: group.reasons[reason] }));
      list.append(element);
    }
    const rest = group.found.length - from - part;
    if (rest <= 0) return;
    const more = item("", "more");
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: `Show more (${rest} left)` });
    button.addEventListener("click", () => {
      more.remove();
      fill(group, from + part);
    });
    more.append(button);
    list.append(more);
  };
  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const categories = buttons.filter((button) => button.getAttribute("aria-pressed") === "true").map((button) => button.dataset.category);
    let shown = 0;
    for (const group of groups) {
      const wanted = !categories.length || categories.includes(group.category);
      group.found = !wanted ? [] : !words.length ? group.nodes : group.nodes.filter(([name, reason]) => {
        const text = `${name.toLowerCase()}\n${group.lowered[reason]}\n${group.head}`;
        return words.every((word) => text.includes(word));
      });
      shown += group.found.length;
      group.element.hidden = group.found.length === 0;
      group.element.querySelector("summary .number").textContent = group.found.length;
      if (group.element.open) fill(group);
    }
    output.textContent = shown === total ? "" : `${shown} of ${total} nodes`;
  };
  for (const group of groups) {
    group.element.addEventListener("toggle", () => {
      if (group.element.open) fill(group);
    });
  }
  for (const button of buttons) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "true" ? "false" : "true");
      apply();
    });
  }
  let waiting = 0;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(apply, 80);
  });
  section.querySelector(".filter").hidden = false;
}

// The signatures of a SavedModel: one at a time.
for (const list of document.querySelectorAll("[role=tablist]")) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const select = (chosen) => {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
    }
  };
  for (const [number, tab] of tabs.entries()) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(number + step + tabs.length) % tabs.length];
      select(next);
      next.focus();
    });
  }
  for (const link of document.querySelectorAll("[data-tab]")) {
    link.addEventListener("click", () => {
      const tab = document.getElementById(`tab-${link.dataset.tab}`);
      if (tab) select(tab);
    });
  }
  list.hidden = false;
  select(tabs[0]);
}
