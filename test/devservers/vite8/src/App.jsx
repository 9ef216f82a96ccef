import { useState } from 'react'

export default function App() {
  const [count, setCount] = useState(0)

  return (
    <main>
      <h1 id="greeting">Edition 0</h1>
      <button id="counter" onClick={() => setCount(count + 1)}>
        Count is {count}
      </button>
    </main>
  )
}
