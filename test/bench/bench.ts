import { median } from './statistics.ts'

/** What one figure should reach: by the first release, and by the time the hub is as good as it can be. */
export interface Target {
  first: number
  later: number
  better: 'more' | 'less'
  /** Where the numbers come from, when they are not plain. */
  note?: string
}

/** One line of a table: what was measured in each round, in one unit. */
export interface Figure {
  name: string
  unit: string
  rounds: number[]
  target?: Target
}

export interface Context {
  /** Length of one measurement. */
  seconds: number
  rounds: number
  /** Also the combinations that the default leaves out for time's sake. */
  full: boolean
  /** Points on disk for the start. */
  points: number
  /** Where CPU profiles of the hub go; `null`: none are taken. */
  profiles: string | null
  /** One word of progress to whoever waits. */
  progress(text: string): void
}

/** One topic. It starts and ends its own processes, and leaves no files behind. */
export interface Bench {
  name: string
  description: string
  targets: Record<string, Target>
  run(context: Context): Promise<Figure[]>
}

export function figure(name: string, unit: string, rounds: number[], target?: Target): Figure {
  return target ? { name, unit, rounds, target } : { name, unit, rounds }
}

/** Pair by pair, as both of a pair were measured under the same load of the machine; the median comes later. */
export function ratios(above: readonly number[], below: readonly number[]): number[] {
  return above.map((value, round) => value / (below[round] as number))
}

export type Verdict = 'meets both' | 'first only' | 'MISSED' | 'not measured'

export function verdict({ rounds, target }: Figure): Verdict | null {
  if (!target) return null
  const value = median(rounds)
  if (!Number.isFinite(value)) return 'not measured'
  const meets = (limit: number): boolean => (target.better === 'more' ? value >= limit : value <= limit)
  if (meets(target.later)) return 'meets both'
  return meets(target.first) ? 'first only' : 'MISSED'
}
