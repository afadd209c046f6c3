import { Problem } from '../errors.ts'

interface Preference {
  weight: number
  /** How exactly the range names the type: by itself, by its first half, or not at all. */
  exactness: number
  place: number
}

/**
 * Which of the forms an answer can have the client likes best, by its `Accept` (RFC 9110 §12.5.1). Between forms that
 * it likes alike the more exactly named wins, then the one named first, then the one offered first.
 */
export function chooseType<T extends string>(accept: string | undefined, offered: readonly T[]): T {
  const ranges = (accept?.trim() || '*/*').toLowerCase().split(',')
  let best: { type: T; preference: Preference } | null = null
  for (const type of offered) {
    const preference = preferenceFor(type, ranges)
    if (preference && (best === null || isBetter(preference, best.preference))) best = { type, preference }
  }
  if (best === null) throw new Problem('not-acceptable', `this comes as ${offered.join(', ')}`)
  return best.type
}

/** What the range that names the type most exactly says about it; `null`: it is not wanted. */
function preferenceFor(type: string, ranges: readonly string[]): Preference | null {
  const names = ['*/*', `${type.split('/')[0]}/*`, type]
  let found: Preference | null = null
  for (const [place, range] of ranges.entries()) {
    const [name = '', ...parameters] = range.split(';').map((part) => part.trim())
    const exactness = names.indexOf(name)
    if (exactness < 0 || (found && found.exactness >= exactness)) continue
    const weight = Number(parameters.find((parameter) => parameter.startsWith('q='))?.slice(2) ?? 1)
    found = { weight: Number.isNaN(weight) ? 1 : weight, exactness, place }
  }
  return found && found.weight > 0 ? found : null
}

function isBetter(one: Preference, other: Preference): boolean {
  if (one.weight !== other.weight) return one.weight > other.weight
  if (one.exactness !== other.exactness) return one.exactness > other.exactness
  return one.place < other.place
}
