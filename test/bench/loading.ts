import { type Helper, startHelper } from './children.ts'
import type { LoadOptions, LoadResult } from './load.ts'

const usual: LoadOptions = {
  mode: 'closed',
  port: 0,
  connections: 100,
  devices: 1000,
  qos: 1,
  inFlight: 20,
  warmupSeconds: 1,
  seconds: 3,
  messages: 0,
  rate: 0,
  stamped: false,
  pids: [],
}

/** A load generator that runs; `usual` where nothing else is said. */
export function startLoad(options: Partial<LoadOptions> & Pick<LoadOptions, 'port'>): Helper {
  return startHelper('load', { ...usual, ...options })
}

/** Runs a load generator to its end. */
export async function runLoad(options: Partial<LoadOptions> & Pick<LoadOptions, 'port'>): Promise<LoadResult> {
  const { result } = await startLoad(options).receive<{ result: LoadResult }>('done')
  return result
}

/** Messages a second. */
export function rateOf({ taken, startedAt, endedAt }: LoadResult): number {
  return (taken * 1000) / (endedAt - startedAt)
}

export function cpuPer100k({ cpuSeconds, taken }: LoadResult): number {
  return (cpuSeconds * 100_000) / taken
}
