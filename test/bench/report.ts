import { type Bench, type Figure, type Target, verdict } from './bench.ts'
import { median } from './statistics.ts'

/** The table of one topic. */
export function formatTable({ name, description }: Bench, figures: readonly Figure[]): string {
  const header = ['', 'median', 'of rounds', 'unit', 'first', 'later', '']
  const rows = figures.map((figure) => [
    figure.name,
    formatNumber(median(figure.rounds)),
    figure.rounds.length > 1
      ? `${formatNumber(Math.min(...figure.rounds))} – ${formatNumber(Math.max(...figure.rounds))}`
      : '',
    figure.unit,
    limitOf(figure.target, 'first'),
    limitOf(figure.target, 'later'),
    verdict(figure) ?? '',
  ])
  const widths = header.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)))
  const line = (cells: string[]): string =>
    cells
      .map((cell, column) =>
        numeric.has(column) ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0),
      )
      .join('  ')
      .trimEnd()
  return [`${name}: ${description}`, '', line(header), ...rows.map(line), ''].join('\n')
}

const numeric = new Set([1, 2, 4, 5])

/** The figures that miss even the first of their targets, said once more at the end. */
export function formatMissed(results: readonly { bench: Bench; figures: Figure[] }[]): string {
  const missed = results.flatMap(({ bench, figures }) =>
    figures
      .filter((figure) => verdict(figure) === 'MISSED')
      .map((figure) => `  ${bench.name}: ${figure.name} (${formatNumber(median(figure.rounds))} ${figure.unit})`),
  )
  return missed.length === 0
    ? 'No figure misses its first target.'
    : ['MISSED, even the first target:', ...missed].join('\n')
}

export function toJson({ bench, figures, busy }: { bench: Bench; figures: Figure[]; busy: number }) {
  return {
    name: bench.name,
    description: bench.description,
    busyCoresBesides: busy,
    figures: figures.map((figure) => ({ ...figure, median: median(figure.rounds), verdict: verdict(figure) })),
  }
}

function limitOf(target: Target | undefined, stage: 'first' | 'later'): string {
  return target ? `${target.better === 'more' ? '≥' : '≤'} ${formatNumber(target[stage])}` : ''
}

/** Three digits that count; more of them would be noise. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return '–'
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(1)
  const digits = value === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))))
  const scale = 10 ** Math.min(0, 2 - Math.floor(Math.log10(Math.abs(value) || 1)))
  const rounded = scale < 1 ? Math.round(value * scale) / scale : value
  return rounded.toLocaleString('en-US', { maximumFractionDigits: Math.min(3, digits) })
}
