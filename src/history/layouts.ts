import type { Millis } from '../../devices/reading.ts'
import type { Values } from '../store/columns.ts'
import { type Format, type HistoryQuery, writePosition } from './query.ts'

/** Rows on their way out. */
export interface Table {
  times: Float64Array
  columns: TableColumn[]
}

export interface TableColumn {
  metric: string
  /** The function, in a column of an aggregate. */
  aggregate: string | null
  values: Values
}

/** What stands around the values of an answer, as bytes: made once a page, copied into every row. */
export interface Layout {
  head: Uint8Array
  tail(next: Millis | null): Uint8Array
  separator: Uint8Array
  /** Before the time of a row, after it, and at the end of the row. */
  open: Uint8Array
  middle: Uint8Array
  close: Uint8Array
  /** Between the cells of a group, and between groups, stands a comma. A group without a cell is left out. */
  groups: { open: Uint8Array; close: Uint8Array; cells: { key: Uint8Array; values: Values }[] }[]
  /** What a cell without a value shows; `null`: the cell is left out. */
  missing: Uint8Array | null
  text(value: string): string
}

/** How a table is written in each format. */
export const layouts: Record<Format, (table: Table, query: HistoryQuery) => Layout> = {
  json: (table, query) => ({
    ...documentOf(query, `${query.buckets ? '"buckets"' : '"readings"'}:[`),
    ...objects(table, query),
    separator: bytesOf(','),
    close: bytesOf('}}'),
  }),
  ndjson: (table, query) => ({ ...lines, ...objects(table, query), close: bytesOf('}}\n') }),
  columns: (table, query) => ({
    ...documentOf(query, `"columns":${JSON.stringify(['ts', ...table.columns.map(columnName)])},"rows":[`),
    ...cellsOf(table),
    separator: bytesOf(','),
    open: bytesOf('['),
    close: bytesOf(']'),
    missing: bytesOf('null'),
    text: JSON.stringify,
  }),
  csv: (table) => ({
    ...lines,
    ...cellsOf(table),
    open: bytesOf(''),
    close: bytesOf('\n'),
    missing: bytesOf(''),
    text: csvField,
  }),
}

/** The name of a column in CSV and `columns`; the column `ts` is the time, also where a metric is called so. */
export function columnName({ metric, aggregate }: Pick<TableColumn, 'metric' | 'aggregate'>): string {
  if (aggregate !== null) return `${metric}.${aggregate}`
  return metric === 'ts' ? 'values.ts' : metric
}

/** The first line of a CSV file. */
export function csvHeader(columns: readonly string[]): string {
  return `${['ts', ...columns].map(csvField).join(',')}\n`
}

const lines = { head: bytesOf(''), tail: () => bytesOf(''), separator: bytesOf('') }

function documentOf({ device, buckets }: HistoryQuery, list: string) {
  const interval = buckets ? `"interval":${JSON.stringify(buckets.written)},` : ''
  return {
    head: bytesOf(`{"device":${JSON.stringify(device)},${interval}${list}`),
    tail: (next: Millis | null) => bytesOf(`],"next":${next === null ? 'null' : JSON.stringify(writePosition(next))}}`),
  }
}

function objects({ columns }: Table, { buckets }: HistoryQuery) {
  const filled = buckets !== null && buckets.fill !== 'none'
  return {
    open: bytesOf('{"ts":'),
    middle: bytesOf(',"values":{'),
    groups: groupsOf(columns),
    missing: filled ? bytesOf('null') : null,
    text: JSON.stringify,
  }
}

/** Columns of one metric belong into one object, unless they are the readings themselves. */
function groupsOf(columns: TableColumn[]): Layout['groups'] {
  const groups = new Map<string, Layout['groups'][number]>()
  for (const { metric, aggregate, values } of columns) {
    const open = aggregate === null ? '' : `${JSON.stringify(metric)}:{`
    const group = groups.get(open) ?? { open: bytesOf(open), close: bytesOf(open === '' ? '' : '}'), cells: [] }
    group.cells.push({ key: bytesOf(`${JSON.stringify(aggregate ?? metric)}:`), values })
    groups.set(open, group)
  }
  return [...groups.values()]
}

function cellsOf({ columns }: Table) {
  const none = bytesOf('')
  const cells = columns.map(({ values }) => ({ key: none, values }))
  return { middle: bytesOf(cells.length > 0 ? ',' : ''), groups: [{ open: none, close: none, cells }] }
}

// RFC 4180 §2: a field with a quote, a comma or a line break is quoted. So is one that would read as another type.
function csvField(text: string): string {
  return /[",\r\n]|^$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text)
}
