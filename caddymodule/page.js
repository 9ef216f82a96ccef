(() => {
  const data = document.body.dataset, log = document.getElementById("log"), form = document.querySelector("form");
  const says = document.getElementById("says"), steps = [...document.querySelectorAll("[data-phase]")];
  if (log) log.scrollTop = log.scrollHeight;
  if (form) form.action += location.hash; // the answer leads back here
  if (data.refresh) setTimeout(() => location.reload(), 1000 * data.refresh);
  if (!data.events) return;

  // What was sent is not sent again. A page that found something out at once
  // does not ask again at once.
  const begun = Date.now();
  const again = (least) => { if (!("unsent" in data)) setTimeout(() => location.reload(), Math.max(0, begun + least - Date.now())); };
  const reach = (phase) => {
    const now = steps.findIndex((step) => step.dataset.phase === phase), over = phase === "ready";
    if (now < 0) return;
    steps.forEach((step, n) => {
      step.className = n < now || over ? "done" : n === now ? "now" : "";
      n === now ? step.setAttribute("aria-current", "step") : step.removeAttribute("aria-current");
    });
    if (says.textContent !== steps[now].dataset.says) says.textContent = steps[now].dataset.says;
  };

  let going = true; // as far as the last status tells
  const source = new EventSource(data.events);
  source.onopen = () => log.replaceChildren(); // they come from the start
  source.addEventListener("status", (event) => {
    const { status, phase } = JSON.parse(event.data);
    reach(phase);
    going = phase === "starting" || phase === "open";
    if (phase !== "ready" && !["failed", "deleting", "deleted"].includes(status)) return;
    source.close();
    if (phase !== "ready" && "unsent" in data) says.textContent = "This sandbox did not start.";
    again(phase === "ready" ? 0 : 1000);
  });
  source.addEventListener("log", (event) => {
    const line = document.createElement("div"), below = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    line.textContent = JSON.parse(event.data);
    log.append(line);
    while (log.childElementCount > 200) log.firstChild.remove();
    document.getElementById("box").hidden = false;
    if (below) log.scrollTop = log.scrollHeight;
  });
  source.onerror = () => {
    const refused = source.readyState === EventSource.CLOSED;
    if (going && !refused) return; // it comes back by itself
    source.close();
    again(refused ? 5000 + 2000 * Math.random() : 2000);
  };
})();
