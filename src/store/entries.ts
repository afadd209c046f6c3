import { compilePatterns, type Filter, type Matcher } from './filter.ts'
import { createRecordReader } from './record.ts'
import type { LogPage } from './store.ts'

/** The names behind the numbers of the dictionary. */
export interface Names {
  device(id: number): string
  metric(id: number): string
}

/** Adds the readings of one commit that pass to the page, until it is full; returns the next offset. */
export type EntryReader = (
  commit: { first: number; records: Uint8Array },
  after: number,
  limit: number,
  page: Pick<LogPage, 'entries' | 'offsets' | 'characters'>,
) => number

/** A page is what a reader that stops reading holds in memory, and what a live one waits for. */
const maxPageCharacters = 256 * 1024

export function isFullPage({ entries, characters }: Pick<LogPage, 'entries' | 'characters'>, limit: number): boolean {
  return entries.length >= limit || characters >= maxPageCharacters
}

/**
 * Makes the JSON of readings straight from their records. A filter by metric leaves the others out of `values`,
 * and a reading without any of them out of the answer.
 */
export function createEntryReader(names: Names, filter: Filter): EntryReader {
  const device = cachedNames(names.device, compilePatterns(filter.devices))
  const metric = cachedNames(names.metric, compilePatterns(filter.metrics))
  return ({ first, records }, after, limit, page) => {
    const record = createRecordReader(records)
    let offset = first
    while (!isFullPage(page, limit) && record.next()) {
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
      const entry = `{"device":${name},"ts":${record.ts},"values":{${values}},"received":${record.received}}`
      page.characters += entry.length
      page.entries.push(entry)
      page.offsets.push(offset - 1)
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
