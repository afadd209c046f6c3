import type { Value } from '../../devices/reading.ts'

/** The values of one metric, one a row. In a number column NaN means "no value", elsewhere `undefined` does. */
export type Values = Float64Array | (Value | undefined)[]

export interface Column {
  /** The number of the metric in the store's dictionary. */
  metric: number
  values: Values
}

/**
 * Readings of one device as columns. Times ascend; rows of the same time stand in the order of the log, so
 * that a later row corrects an earlier one.
 */
export interface Rows {
  times: Float64Array
  columns: Column[]
}

/** The value in a row, or `undefined`. */
export function valueAt(values: Values, row: number): Value | undefined {
  const value = values[row]
  return value === undefined || Number.isNaN(value) ? undefined : value
}

/** Rows in the order of their times; rows of one time keep their order. */
export function sortRows(rows: Rows): Rows {
  const { times } = rows
  let sorted = true
  for (let i = 1; i < times.length; i++) {
    if ((times[i] as number) < (times[i - 1] as number)) {
      sorted = false
      break
    }
  }
  if (sorted) return rows
  const order = Array.from(times.keys()).sort((a, b) => (times[a] as number) - (times[b] as number) || a - b)
  return pickRows(rows, order)
}

/** The rows at the given places, in that order. */
export function pickRows(rows: Rows, places: readonly number[]): Rows {
  return {
    times: Float64Array.from(places, (place) => rows.times[place] as number),
    columns: rows.columns.map(({ metric, values }) => ({
      metric,
      values:
        values instanceof Float64Array
          ? Float64Array.from(places, (place) => values[place] as number)
          : places.map((place) => values[place]),
    })),
  }
}

/** One after the other: `parts` in the order in which their readings entered the log. Times may overlap. */
export function concatRows(parts: readonly Rows[]): Rows {
  const [only] = parts
  if (parts.length === 1 && only) return only
  const length = parts.reduce((sum, part) => sum + part.times.length, 0)
  const times = new Float64Array(length)
  const columns = new Map<number, Values>()
  let at = 0
  for (const part of parts) {
    times.set(part.times, at)
    for (const { metric, values } of part.columns) columns.set(metric, place(columns.get(metric), values, at, length))
    at += part.times.length
  }
  return { times, columns: Array.from(columns, ([metric, values]) => ({ metric, values })) }
}

function place(into: Values | undefined, values: Values, at: number, length: number): Values {
  if (values instanceof Float64Array && (into === undefined || into instanceof Float64Array)) {
    const target = into ?? new Float64Array(length).fill(Number.NaN)
    target.set(values, at)
    return target
  }
  const target = toMixed(into, length)
  for (let i = 0; i < values.length; i++) target[at + i] = valueAt(values, i)
  return target
}

function toMixed(values: Values | undefined, length: number): (Value | undefined)[] {
  if (Array.isArray(values)) return values
  const mixed = new Array<Value | undefined>(length).fill(undefined)
  if (values) for (let i = 0; i < values.length; i++) mixed[i] = valueAt(values, i)
  return mixed
}

/** The rows with `from <= time < to`; times must ascend. */
export function sliceRows(rows: Rows, from: number, to: number): Rows {
  const start = lowerBound(rows.times, from)
  const end = lowerBound(rows.times, to)
  if (start === 0 && end === rows.times.length) return rows
  return {
    times: rows.times.subarray(start, end),
    columns: rows.columns.map(({ metric, values }) => ({
      metric,
      values: values instanceof Float64Array ? values.subarray(start, end) : values.slice(start, end),
    })),
  }
}

/** The first place whose time is not before `time`. */
export function lowerBound(times: Float64Array, time: number): number {
  let low = 0
  let high = times.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((times[middle] as number) < time) low = middle + 1
    else high = middle
  }
  return low
}

/** Whether no two neighbours have the same time. */
export function isDistinct(times: Float64Array): boolean {
  for (let i = 1; i < times.length; i++) if (times[i] === times[i - 1]) return false
  return true
}

/** One row a time: of several rows of one time, each metric shows the value that came last. */
export function mergeTimes(rows: Rows): Rows {
  const { times } = rows
  if (isDistinct(times)) return rows
  const last: number[] = []
  for (let i = 0; i < times.length; i++) if (times[i] !== times[i + 1]) last.push(i)
  const merged = pickRows(rows, last)
  // A metric that the last row of a time lacks is looked for in the earlier rows of that time.
  rows.columns.forEach(({ values }, index) => {
    const target = merged.columns[index]?.values
    if (!target) return
    last.forEach((end, row) => {
      const begin = row === 0 ? 0 : (last[row - 1] as number) + 1
      for (let i = end; i >= begin; i--) {
        const value = valueAt(values, i)
        if (value === undefined) continue
        target[row] = value as number
        break
      }
    })
  })
  return merged
}
