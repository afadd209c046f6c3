const durationUnits = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 } as const
const sizeUnits = { B: 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3, TiB: 1024 ** 4 } as const

/** `90s`, `5m`, `1d` in milliseconds, or `null`. A bare 0 needs no unit. */
export function parseDuration(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d|w)$/.exec(text)
  if (!match) return text === '0' ? 0 : null
  const millis = Number(match[1]) * durationUnits[match[2] as keyof typeof durationUnits]
  return Number.isSafeInteger(millis) ? millis : null
}

/** The twin of `parseDuration`, in the largest unit that divides: 90000 is `90s`. */
export function formatDuration(millis: number): string {
  const units = Object.entries(durationUnits).filter(([, size]) => millis % size === 0)
  const [unit, size] = units.at(-1) ?? ['ms', 1]
  return millis === 0 ? '0s' : `${millis / size}${unit}`
}

/** `512MiB`, `1GiB` in bytes, or `null`. A bare 0 needs no unit. */
export function parseSize(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)(B|KiB|MiB|GiB|TiB)$/.exec(text)
  if (!match) return text === '0' ? 0 : null
  return Math.round(Number(match[1]) * sizeUnits[match[2] as keyof typeof sizeUnits])
}
