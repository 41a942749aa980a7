// The keys' dialog: what is typed there is kept for this tab, if it can be sent at all.

import { KINDS, keepKey, readKey } from "./client.js";
import { byId, setText } from "./dom.js";

const SENDABLE = /^[\x20-\x7e\xa0-\xff]*$/; // in a header

/** Wire the dialog; gives a function that opens it and says why. `use` is told of new keys. */
export function startKeys(use) {
  const dialog = byId("keys");
  const fields = KINDS.map((kind) => [kind, byId(`key-${kind}`)]);

  for (const [, field] of fields) {
    field.addEventListener("input", () => {
      check(field);
      field.reportValidity();
    });
  }
  dialog.addEventListener("submit", ({ submitter }) => {
    // what was entered counts from here on: `close` may come after the dialog has been opened again
    if (submitter?.value !== "keep") return;
    for (const [kind, field] of fields) keepKey(kind, field.value.trim());
    use();
  });
  dialog.addEventListener("close", () => {
    if (!dialog.open) fill(() => "");
  });

  function fill(valueOf) {
    for (const [kind, field] of fields) {
      field.value = valueOf(kind);
      check(field);
    }
  }

  return (why = "") => {
    if (dialog.open) return;
    fill(readKey);
    byId("keys-why").hidden = why === "";
    setText(byId("keys-why"), why);
    dialog.showModal();
  };
}

function check(field) {
  const isSendable = SENDABLE.test(field.value.trim());
  field.setCustomValidity(isSendable ? "" : "A key holds printable Latin-1 characters only.");
}
