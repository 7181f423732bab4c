// Call `article` from Java 11 or newer, without a build: java Call.java
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;

public class Call {
    public static void main(String[] args) throws InterruptedException {
        var request = HttpRequest.newBuilder()
                .uri(URI.create(System.getenv("MAAS_BASE_URL") + "/predict/article"))
                .header("Authorization", "Bearer " + System.getenv("MAAS_API_KEY"))
                .header("Content-Type", "application/json")
                .timeout(Duration.ofSeconds(10))
                .POST(HttpRequest.BodyPublishers.ofString("{\"x\": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}"))
                .build();
        try {
            var response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
            if (response.statusCode() == 200) {
                System.out.println(response.body());
                return;
            }
            System.err.println(response.body()); // the reason, as JSON
        } catch (IOException unreachable) {
            System.err.println("error: " + unreachable);
        }
        System.exit(1);
    }
}
