// Call `article` from JavaScript (Node 18 or newer).
const { MAAS_BASE_URL, MAAS_API_KEY } = process.env;

try {
  const response = await fetch(`${MAAS_BASE_URL}/predict/article`, {
    method: "POST",
    headers: { Authorization: `Bearer ${MAAS_API_KEY}`, "Content-Type": "application/json" },
    body: JSON.stringify({ x: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] }),
    signal: AbortSignal.timeout(10_000),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail); // the reason
  console.log(JSON.stringify(answer));
} catch (error) {
  console.error(`error: ${error.cause?.message ?? error.message}`);
  process.exitCode = 1;
}
