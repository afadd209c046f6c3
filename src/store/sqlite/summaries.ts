import { remembered } from '../entries.ts'
import { compilePatterns } from '../filter.ts'
import type { DeviceQuery, DeviceSummary, LatestPage } from '../store.ts'
import { type Head, latestText } from './head.ts'
import type { Heads } from './heads.ts'

/** What is known of devices without looking at their history. */
export function createSummaries({ byName, metrics }: Pick<Heads, 'byName' | 'metrics'>) {
  const metricName = (id: number): string => metrics.get(id) as string
  let sortedNames: string[] = []

  function select({ after, limit, devices, exact }: DeviceQuery): Head[] {
    // Names are only added.
    if (sortedNames.length < byName.size) sortedNames = [...byName.keys()].sort()
    const plain = exact || (devices.length > 0 && devices.every((pattern) => !pattern.includes('*')))
    const matches = plain ? null : compilePatterns(devices)
    const names = plain ? [...new Set(devices)].sort() : sortedNames
    const selected: Head[] = []
    for (let i = after === '' ? 0 : firstAfter(names, after); i < names.length; i++) {
      const head = byName.get(names[i] as string)
      if (!head || (matches && !matches(head.name))) continue
      selected.push(head)
      if (selected.length === limit) break
    }
    return selected
  }

  return {
    devices(query: DeviceQuery): DeviceSummary[] {
      return select(query).map(({ name, firstSeen, lastSeen, columns }) => ({
        device: name,
        firstSeen,
        lastSeen,
        metrics: Array.from(columns.keys(), metricName).sort(),
      }))
    },
    // One text crosses threads as it is; a thousand objects were taken apart, put together and then made a text of.
    latest(query: DeviceQuery & { metrics: string[] }): LatestPage {
      const matches = compilePatterns(query.metrics)
      const key = remembered((id) => (matches?.(metricName(id)) === false ? null : JSON.stringify(metricName(id))))
      const heads = select({ ...query, limit: query.limit + 1 })
      const next = heads.length > query.limit ? (heads[query.limit - 1] as Head).name : null
      if (next !== null) heads.length = query.limit
      return { entries: heads.map((head) => latestText(head, key)).join(','), next }
    },
  }
}

function firstAfter(names: string[], name: string): number {
  let low = 0
  let high = names.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((names[middle] as string) <= name) low = middle + 1
    else high = middle
  }
  return low
}
