/** Tasks of which few run at a time. */
export interface Turns {
  /** Runs a task when its turn has come. */
  take<T>(key: string, task: () => Promise<T>): Promise<T>
  /** How many wait, in all or of one key. */
  waiting(key?: string): number
}

/** Of one key, one task runs at a time, and keys take turns: who comes a thousand times delays himself. */
export function createTurns(maxRunning: number): Turns {
  const running = new Set<string>()
  // The tasks of each key in the order of their arrival; the first key is the next one to be served.
  const waiting = new Map<string, (() => void)[]>()
  let count = 0

  function serve(): void {
    for (const [key, queue] of waiting) {
      if (running.size >= maxRunning) return
      if (running.has(key)) continue
      const begin = queue.shift() as () => void
      waiting.delete(key)
      if (queue.length > 0) waiting.set(key, queue)
      count--
      running.add(key)
      begin()
    }
  }

  return {
    async take(key, task) {
      await new Promise<void>((resolve) => {
        const queue = waiting.get(key)
        if (queue) queue.push(resolve)
        else waiting.set(key, [resolve])
        count++
        serve()
      })
      try {
        return await task()
      } finally {
        running.delete(key)
        serve()
      }
    },
    waiting: (key) => (key === undefined ? count : (waiting.get(key)?.length ?? 0)),
  }
}
