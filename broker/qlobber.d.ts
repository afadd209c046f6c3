declare module 'qlobber' {
  interface Options {
    separator?: string
    wildcard_one?: string
    wildcard_some?: string
    match_empty_levels?: boolean
  }
  export class Qlobber<T> {
    constructor(options?: Options)
    add(filter: string, value: T): this
    remove(filter: string, value?: T): this
    match(topic: string): T[]
    clear(): this
  }
  /** Knows whether a topic is matched, and not by what. */
  export class QlobberTrue {
    constructor(options?: Options)
    add(filter: string): this
    test(topic: string): boolean
  }
}
