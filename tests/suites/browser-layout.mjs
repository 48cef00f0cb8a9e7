// What a page's layout may not do to whoever reads it. These functions run in the page: nothing outside of them is there.

/** What is wrong with where things stand, in words. */
export function misfits() {
  const found = [];
  const say = (what, element) => found.push(`${what}: ${element.outerHTML.slice(0, 160)}`);
  const shown = (element) => element.checkVisibility() && element.closest('.visually-hidden, svg, template') === null;
  const all = (selector, within = document.querySelector('main')) => [...within.querySelectorAll(selector)].filter(shown);
  /** How many lines a part of a text is on. */
  const lines = (range) => new Set([...range.getClientRects()].map(({ top }) => Math.round(top / 4))).size;

  /** Words stay whole, and what has no spaces is not piled up letter by letter. */
  const [LONGEST_WORD, FEWEST_LETTERS] = [24, 8];
  const texts = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    const element = text.parentElement;
    if (text.data.trim() === '' || element.tagName === 'TEXTAREA' || !shown(element)) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    if (lines(range) < 2) continue;
    const within = (start, length) => {
      range.setStart(text, start);
      range.setEnd(text, start + length);
      return lines(range);
    };
    for (const { 0: run, index } of text.data.matchAll(/\S+/g)) {
      const on = within(index, run.length);
      if (on < 2) continue;
      if (run.length > LONGEST_WORD) {
        if (run.length / on < FEWEST_LETTERS) say(`${run.length} letters are on ${on} lines`, element);
        continue;
      }
      for (const word of run.matchAll(/[\p{L}\p{N}]+/gu)) {
        if (within(index + word.index, word[0].length) > 1) say(`"${word[0]}" is broken`, element);
      }
    }
  }

  /** Nothing sticks out of what it stands in, and nothing is cut off without a way to it. */
  for (const element of all('main *')) {
    if (element.closest('.table') !== null) continue;
    const card = element.parentElement.closest('.card, main');
    const over = element.getBoundingClientRect().right - card.getBoundingClientRect().right;
    if (over > 1) say(`it sticks out by ${Math.round(over)} px`, element);
    // What one types into goes along with what is typed.
    if (element.matches('input, select, textarea')) continue;
    const cuts = ['hidden', 'clip'].includes(getComputedStyle(element).overflowX);
    if (cuts && element.scrollWidth > element.clientWidth + 1) say('it cuts off what is in it', element);
  }

  /** On a desk tables are there whole; on a phone no row is tall for what is out of sight. */
  const [DESK, SPARE] = [1000, 120];
  for (const scroller of all('.table')) {
    const over = scroller.scrollWidth - scroller.clientWidth;
    if (innerWidth >= DESK && over > 1) say(`its last ${over} px are out of sight`, scroller);
    const edge = scroller.getBoundingClientRect().right;
    for (const row of all('tbody tr', scroller)) {
      const seen = [...row.cells].filter((cell) => cell.getBoundingClientRect().left < edge - 16);
      const tallest = Math.max(...seen.map((cell) => {
        const contents = document.createRange();
        contents.selectNodeContents(cell);
        return contents.getBoundingClientRect().height;
      }));
      const height = row.getBoundingClientRect().height;
      if (height > tallest + SPARE) say(`a row of ${Math.round(height)} px shows ${Math.round(tallest)}`, row);
    }
  }

  /** Fields that stand beside each other begin at one height, and so do the boxes that one types into. */
  for (const filter of all('.filter')) {
    const boxes = all('.field > input, .field > select', filter);
    for (const [index, box] of boxes.entries()) {
      const { top, bottom } = box.getBoundingClientRect();
      const beside = boxes.slice(index + 1).map((other) => other.getBoundingClientRect())
        .filter((other) => other.top < bottom && other.bottom > top);
      if (beside.some((other) => Math.abs(other.top - top) > 2)) say('fields beside it are at another height', box);
    }
  }
  return [...new Set(found)];
}
