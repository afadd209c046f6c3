export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length === 0) return Number.NaN
  return sorted.length % 2 === 1 ? at(sorted, middle) : (at(sorted, middle - 1) + at(sorted, middle)) / 2
}

export interface Spread {
  count: number
  p50: number
  p99: number
  max: number
}

/** By nearest rank, so that p99 is a value that was seen. */
export function spread(samples: ArrayLike<number>): Spread {
  const sorted = Float64Array.from(samples).sort()
  const rank = (share: number): number => at(sorted, Math.max(0, Math.ceil(sorted.length * share) - 1))
  return { count: sorted.length, p50: rank(0.5), p99: rank(0.99), max: rank(1) }
}

function at(values: ArrayLike<number>, place: number): number {
  return values[place] ?? Number.NaN
}
