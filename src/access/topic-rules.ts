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

export function allowsTopic({ templates, covers }: TopicRules, topic: string): boolean {
  const levels = topic.split('/')
  return templates.some((template) => {
    const wanted = template.split('/')
    return allowsLevels(wanted, levels, (level, want) => want === '+' || (want === '{device}' && covers(level)))
  })
}

/** Whether everything that a filter matches is allowed. */
export function allowsFilter({ templates, covers }: TopicRules, filter: string): boolean {
  const levels = filter.split('/')
  return templates.some((template) =>
    allowsLevels(template.split('/'), levels, (level, want) => {
      if (level === '#') return false
      if (want === '+') return true
      // `+` asks for all devices.
      return want === '{device}' && covers(level === '+' ? '*' : level)
    }),
  )
}

function allowsLevels(wanted: string[], levels: string[], allows: (level: string, want: string) => boolean): boolean {
  for (const [index, want] of wanted.entries()) {
    if (want === '#') return true
    const level = levels[index]
    if (level === undefined || (level !== want && !allows(level, want))) return false
  }
  return levels.length === wanted.length
}
