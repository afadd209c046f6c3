/* Elements of the page. Whatever devices say enters it as text, never as markup. */

/** An element that index.html holds. */
export function find<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id)
  if (found instanceof kind) return found
  throw new Error(`BUG: index.html holds no ${kind.name} "${id}"`)
}

export function create<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag)
  if (className !== '') element.className = className
  element.append(...children)
  return element
}

/** Writes only what differs: an unchanged text costs no layout. */
export function write(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text
}

/** Marks one of several links as the one that is shown. */
export function mark(element: HTMLElement, current: boolean): void {
  if (current) element.setAttribute('aria-current', 'true')
  else element.removeAttribute('aria-current')
}

/** Calls `draw` before the next frame, once however often it is asked for. */
export function onFrame(draw: () => void): () => void {
  let asked = false
  return () => {
    if (asked) return
    asked = true
    requestAnimationFrame(() => {
      asked = false
      draw()
    })
  }
}
