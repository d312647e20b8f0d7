// What moves between routes: links, forms, keys, and the browser's own back and forward.
(() => {
  const send = (id, value) => {
    const box = document.querySelector(`#${id} textarea, #${id} input`);
    if (!box) return;
    const prototype = box.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(prototype.prototype, "value").set.call(box, value);
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const go = (route, push = true) => {
    if (push) history.pushState(null, "", route || "?");
    document.getElementById("ng-page")?.setAttribute("aria-busy", "true");
    send("ng-route", route.replace(/^\?/, "") || "view=overview");
    window.scrollTo(0, 0);
  };
  addEventListener("popstate", () => go(location.search, false));
  addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-go]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(link.getAttribute("href"));
  });
  addEventListener("submit", (event) => {
    const form = event.target;
    if (form.matches("form[data-form]")) {
      event.preventDefault();
      const values = new URLSearchParams(new FormData(form));
      for (const [name, value] of [...values]) if (!value) values.delete(name);
      go("?" + values);
    } else if (form.matches("form[data-note]")) {
      event.preventDefault();
      const values = new FormData(form, event.submitter);
      const note = { route: location.search, mark: values.get("mark") ?? "", remark: values.get("remark") ?? "", at: Date.now() };
      send("ng-note", JSON.stringify(note));
    }
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest?.("input, textarea, select, [contenteditable]")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "/") {
      const box = document.querySelector("form[data-form] input[name=s]");
      if (box) { event.preventDefault(); box.focus(); }
    } else if (event.key === "e") {
      const folds = [...document.querySelectorAll(".talk details")];
      const open = folds.some((fold) => !fold.open);
      folds.forEach((fold) => { fold.open = open; });
    } else if (/^[a-z]$/.test(event.key)) {
      document.querySelector(`a[data-key="${event.key}"]`)?.click();
    }
  });
})();
