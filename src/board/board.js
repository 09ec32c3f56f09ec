// Keeps a page of the board up to date: replaces the parts that the board says have changed, and keeps what the reader has opened, ticked,
// scrolled and focused. Without it pages show what was so when they were loaded.
"use strict";
(() => {
  const live = document.getElementById("live");
  const connection = document.getElementById("connection");
  const { events } = document.body.dataset;
  let { shown } = document.body.dataset;
  let source = null;

  // What a reader does with the elements of a part, by their ids or their places.
  function kept(part) {
    const opened = [...part.querySelectorAll("details")].map((one) => one.open);
    const checked = [...part.querySelectorAll("input[type=checkbox]")].filter((one) => one.checked).map((one) => one.id);
    const scrolled = [...part.querySelectorAll("pre, .wide")].map((one) => [one.scrollTop, one.scrollLeft, one.scrollTop + one.clientHeight >= one.scrollHeight - 4]);
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    return () => {
      const now = (selector) => document.getElementById(part.id)?.querySelectorAll(selector) ?? [];
      now("details").forEach((one, place) => { if (place < opened.length) one.open = opened[place]; });
      now("input[type=checkbox]").forEach((one) => { one.checked = checked.includes(one.id); });
      now("pre, .wide").forEach((one, place) => {
        const [top, left, atEnd] = scrolled[place] ?? [0, 0, false];
        one.scrollLeft = left;
        one.scrollTop = atEnd && one.classList.contains("tail") ? one.scrollHeight : top;
      });
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    };
  }

  function elements(html) {
    const template = document.createElement("template");
    template.innerHTML = html; // escaped by the board; the policy of the page runs no script in it
    return template.content;
  }

  function show(message) {
    if (message.whole) {
      const keep = kept(live);
      live.replaceChildren(elements(message.parts.map(([, html]) => html).join("")));
      live.dispatchEvent(new CustomEvent("replaced", { bubbles: true }));
      keep();
    } else {
      for (const [id, html] of message.parts) {
        const part = document.getElementById(id);
        if (!part) continue;
        const keep = kept(part);
        part.replaceWith(elements(html));
        document.getElementById(id)?.dispatchEvent(new CustomEvent("replaced", { bubbles: true }));
        keep();
      }
    }
    shown = message.version;
    tick();
  }

  // A browser has few connections for one server, so a page in the background listens to nothing.
  function listen() {
    if (document.hidden) {
      source?.close();
      source = null;
      return;
    }
    if (source) return;
    source = new EventSource(`${events}&shown=${shown}`);
    source.onopen = () => { connection.textContent = "live"; };
    source.onmessage = (event) => show(JSON.parse(event.data));
    source.onerror = () => {
      connection.textContent = "the board does not answer; this page shows what was so before";
      source.close();
      source = null;
      setTimeout(listen, 3000);
    };
  }

  // Sessions stay ticked when the list is sorted, filtered or turned over.
  const compare = document.getElementById("compare");
  const ticked = new Set(JSON.parse(sessionStorage.getItem("ticked") ?? "[]"));
  function tick() {
    if (!compare) return;
    for (const box of compare.querySelectorAll("input[name=s]")) box.checked = ticked.has(box.value);
    document.getElementById("ticked").textContent = ticked.size ? `${ticked.size} ticked` : "";
  }
  compare?.addEventListener("change", (event) => {
    if (event.target.name !== "s") return;
    if (event.target.checked) ticked.add(event.target.value);
    else ticked.delete(event.target.value);
    sessionStorage.setItem("ticked", JSON.stringify([...ticked]));
    tick();
  });
  compare?.addEventListener("submit", () => {
    for (const old of compare.querySelectorAll("input[type=hidden]")) old.remove();
    const here = new Set([...compare.querySelectorAll("input[name=s]")].map((box) => box.value));
    for (const session of ticked) {
      if (here.has(session)) continue;
      const input = document.createElement("input");
      Object.assign(input, { type: "hidden", name: "s", value: session });
      compare.append(input);
    }
  });

  tick();
  const tail = document.getElementById("tail");
  if (tail) tail.scrollTop = tail.scrollHeight;
  document.addEventListener("visibilitychange", listen);
  listen();
})();
