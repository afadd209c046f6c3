/** Names that a reader wants, each a pattern in which `*` stands for any characters. Empty: everything. */
export interface Filter {
  devices: readonly string[]
  metrics: readonly string[]
}

/** A text that no other filter has. */
export function keyOf({ devices, metrics }: Filter): string {
  return JSON.stringify([devices, metrics])
}

/** The patterns of a list separated by commas; `\,` is a comma in a name. Without a list there are none. */
export function readPatterns(text: string | undefined): string[] {
  const items = text?.split(/(?<!\\),/) ?? []
  return items.filter((item) => item !== '').map((item) => item.replaceAll('\\,', ','))
}

export type Matcher = (name: string) => boolean

/** A matcher for any of the patterns, or `null` when everything matches. */
export function compilePatterns(patterns: readonly string[]): Matcher | null {
  if (patterns.length === 0 || patterns.includes('*')) return null
  const exact = new Set(patterns.filter((pattern) => !pattern.includes('*')))
  const wild = patterns.filter((pattern) => pattern.includes('*')).map(compileWildcard)
  return (name) => exact.has(name) || wild.some((matches) => matches(name))
}

// By hand and not as a regular expression: patterns come from outside, and `a*a*a*a*b` must not cost more than its length.
function compileWildcard(pattern: string): Matcher {
  const [head = '', ...rest] = pattern.split('*')
  const tail = rest.pop() ?? ''
  return (name) => {
    if (name.length < head.length + tail.length || !name.startsWith(head) || !name.endsWith(tail)) return false
    let at = head.length
    const end = name.length - tail.length
    for (const part of rest) {
      const found = name.indexOf(part, at)
      if (found < 0 || found + part.length > end) return false
      at = found + part.length
    }
    return true
  }
}
