/*
 * Topics and topic filters against templates: filters in which the level `{device}` stands for the devices of a
 * credential. All of them are well-formed.
 */

export interface TopicRules {
  /** Templates of topics. */
  templates: readonly string[]
  /** Whether a device, or a pattern of devices, is one of the credential's. */
  covers(device: string): boolean
}

const deviceLevel = '{device}'

/** What is wrong with a template, or `null`. */
export function templateProblem(template: string): string | null {
  if (/\p{Cc}/u.test(template)) return 'a topic holds no control characters'
  const levels = template.split('/')
  if (levels.slice(0, -1).includes('#')) return '"#" can only be the last level'
  for (const level of levels) {
    if (level.length > 1 && /[+#]/.test(level)) return '"+" and "#" stand for whole levels'
    if (level !== deviceLevel && level.includes(deviceLevel)) return `"${deviceLevel}" stands for a whole level`
  }
  return null
}

export function allowsTopic({ templates, covers }: TopicRules, topic: string): boolean {
  const levels = topic.split('/')
  return templates.some((template) => allowsLevels(template.split('/'), levels, covers))
}

/** Whether everything that a filter matches is allowed. */
export function allowsFilter({ templates, covers }: TopicRules, filter: string): boolean {
  const levels = filter.split('/')
  // `+` asks for all devices, and `#` is allowed by a template's own alone.
  const coversLevel = (level: string) => level !== '#' && covers(level === '+' ? '*' : level)
  return templates.some((template) => allowsLevels(template.split('/'), levels, coversLevel))
}

function allowsLevels(wanted: string[], levels: string[], covers: (level: string) => boolean): boolean {
  for (const [index, want] of wanted.entries()) {
    if (want === '#') return true
    const level = levels[index]
    if (level === undefined) return false
    // Asked first: a level of a topic may be spelled like the placeholder.
    if (want === deviceLevel ? !covers(level) : want === '+' ? level === '#' : level !== want) return false
  }
  return levels.length === wanted.length
}
