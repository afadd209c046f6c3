import { type Values, valueAt } from '../store/columns.ts'
import type { Format } from './query.ts'

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

export interface Encoding {
  /** From the last row to the first. */
  desc: boolean
  /** In JSON, say `null` where there is no value; else leave the name out. */
  nulls: boolean
}

/** Where rows are wide, a page ends before its limit of rows: a text must fit into memory, and into V8's strings. */
const maxTextLength = 32 * 1024 * 1024

/** A table as the content of an answer, as many of its rows as fit; see `HistoryPage.body`. */
export function encodeTable(table: Table, format: Format, encoding: Encoding): { text: string; rows: number } {
  const { lineOf, separator, terminator } = encoders[format]
  const line = lineOf(table, encoding)
  const count = table.times.length
  const lines: string[] = []
  let length = 0
  for (let i = 0; i < count && length < maxTextLength; i++) {
    const text = line(encoding.desc ? count - 1 - i : i)
    length += text.length
    lines.push(text)
  }
  return { text: lines.length === 0 ? '' : lines.join(separator) + terminator, rows: lines.length }
}

/** The name of a column in CSV and `columns`. */
export function columnName({ metric, aggregate }: Pick<TableColumn, 'metric' | 'aggregate'>): string {
  return aggregate === null ? metric : `${metric}.${aggregate}`
}

/** The first line of a CSV file. */
export function csvHeader(columns: readonly string[]): string {
  return `${['ts', ...columns].map(csvField).join(',')}\n`
}

type LineEncoder = (table: Table, encoding: Encoding) => (row: number) => string

const encoders: Record<Format, { lineOf: LineEncoder; separator: string; terminator: string }> = {
  json: { lineOf: jsonLine, separator: ',', terminator: '' },
  ndjson: { lineOf: jsonLine, separator: '\n', terminator: '\n' },
  columns: { lineOf: arrayLine, separator: ',', terminator: '' },
  csv: { lineOf: csvLine, separator: '\n', terminator: '\n' },
}

function jsonLine({ times, columns }: Table, { nulls }: Encoding) {
  const groups = groupsOf(columns)
  return (row: number): string => {
    let members = ''
    for (const { name, cells } of groups) {
      let content = ''
      for (const { key, values } of cells) {
        const value = valueAt(values, row)
        if (value === undefined && !nulls) continue
        content += `${content === '' ? '' : ','}${key}${value === undefined ? 'null' : jsonOf(value)}`
      }
      if (content !== '') members += `${members === '' ? '' : ','}${name === '' ? content : `${name}{${content}}`}`
    }
    return `{"ts":${times[row]},"values":{${members}}}`
  }
}

/** Columns of one metric belong into one object, unless they are the readings themselves. */
function groupsOf(columns: TableColumn[]): { name: string; cells: { key: string; values: Values }[] }[] {
  const groups = new Map<string, { key: string; values: Values }[]>()
  for (const { metric, aggregate, values } of columns) {
    const name = aggregate === null ? '' : `${JSON.stringify(metric)}:`
    const cells = groups.get(name) ?? []
    cells.push({ key: `${JSON.stringify(aggregate ?? metric)}:`, values })
    groups.set(name, cells)
  }
  return Array.from(groups, ([name, cells]) => ({ name, cells }))
}

function arrayLine({ times, columns }: Table) {
  return (row: number): string => {
    let cells = `[${times[row]}`
    for (const { values } of columns) {
      const value = valueAt(values, row)
      cells += `,${value === undefined ? 'null' : jsonOf(value)}`
    }
    return `${cells}]`
  }
}

function csvLine({ times, columns }: Table) {
  return (row: number): string => {
    let line = String(times[row])
    for (const { values } of columns) {
      const value = valueAt(values, row)
      line += `,${value === undefined ? '' : typeof value === 'string' ? csvField(value) : value}`
    }
    return line
  }
}

function jsonOf(value: number | boolean | string): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value)
}

// RFC 4180 §2: a field with a quote, a comma or a line break is quoted. So is one that would read as another type.
function csvField(text: string): string {
  return /[",\r\n]|^$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
