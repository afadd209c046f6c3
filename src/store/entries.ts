import { compilePatterns, type Filter, type Matcher } from './filter.ts'
import { createRecordReader } from './record.ts'

/** The names behind the numbers of the dictionary. */
export interface Names {
  device(id: number): string
  metric(id: number): string
}

/** Adds the readings of one commit that pass to `entries`, until those are `limit`; returns the next offset. */
export type EntryReader = (
  commit: { first: number; records: Uint8Array },
  after: number,
  limit: number,
  into: { entries: string[]; offsets: number[] },
) => number

/**
 * Makes the JSON of readings straight from their records. A filter by metric leaves the others out of `values`,
 * and a reading without any of them out of the answer.
 */
export function createEntryReader(names: Names, filter: Filter): EntryReader {
  const device = cachedNames(names.device, compilePatterns(filter.devices))
  const metric = cachedNames(names.metric, compilePatterns(filter.metrics))
  return ({ first, records }, after, limit, { entries, offsets }) => {
    const record = createRecordReader(records)
    let offset = first
    while (entries.length < limit && record.next()) {
      if (offset++ < after) continue
      const name = device(record.device)
      if (name === null) continue
      let values = ''
      for (let i = 0; i < record.size; i++) {
        const key = metric(record.metrics[i] as number)
        if (key === null) continue
        const value = record.values[i]
        values += `${values === '' ? '' : ','}${key}:${typeof value === 'string' ? JSON.stringify(value) : value}`
      }
      if (values === '') continue
      entries.push(`{"device":${name},"ts":${record.ts},"values":{${values}},"received":${record.received}}`)
      offsets.push(offset - 1)
    }
    return offset
  }
}

/** Names as JSON, each made once; `null` for those that do not match. */
export function cachedNames(nameOf: (id: number) => string, matches: Matcher | null) {
  const known = new Map<number, string | null>()
  return (id: number): string | null => {
    let text = known.get(id)
    if (text === undefined) {
      const name = nameOf(id)
      text = matches === null || matches(name) ? JSON.stringify(name) : null
      known.set(id, text)
    }
    return text
  }
}
