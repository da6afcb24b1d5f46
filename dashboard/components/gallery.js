// Cards to choose from: each a button, so that a keyboard and a screen reader have them too.

export default function ({ data, parentElement, setTriggerValue }) {
  const list = parentElement.querySelector("ul");
  list.replaceChildren(
    ...data.cards.map((card) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = card.wrong ? "wrong" : "";
      button.style.setProperty("--class", card.colour);
      button.setAttribute("aria-label", [card.title, card.note, card.detail].filter(Boolean).join(", "));
      button.onclick = () => setTriggerValue("chosen", card.id);
      if (card.picture) {
        const picture = document.createElement("img");
        picture.src = `data:image/png;base64,${card.picture}`;
        picture.alt = "";
        button.append(picture);
      }
      for (const part of ["title", "note", "detail"]) {
        const line = document.createElement("span");
        line.className = part;
        line.textContent = card[part];
        button.append(line);
      }
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
}
