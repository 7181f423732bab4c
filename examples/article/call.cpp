// Call `article` from C++17 with libcurl: g++ -std=c++17 call.cpp -lcurl -o call && ./call
#include <curl/curl.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>

static size_t append(char *data, size_t size, size_t count, void *body) {
    static_cast<std::string *>(body)->append(data, size * count);
    return size * count;
}

static std::string setting(const char *name) {
    const char *value = std::getenv(name);
    return value ? value : "";
}

int main() {
    const std::string url = setting("MAAS_BASE_URL") + "/predict/article";
    const std::string key = "Authorization: Bearer " + setting("MAAS_API_KEY");
    std::string body;
    std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), curl_easy_cleanup);
    curl_slist *headers = curl_slist_append(nullptr, key.c_str());
    headers = curl_slist_append(headers, "Content-Type: application/json");

    curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, R"({"x": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]})");
    curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT, 10L);
    curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, append);
    curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &body);

    const CURLcode sent = curl_easy_perform(curl.get());
    long status = 0;
    curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(headers);
    if (sent != CURLE_OK) std::cerr << "error: " << curl_easy_strerror(sent) << '\n';
    else (status == 200 ? std::cout : std::cerr) << body << '\n'; // of a refusal: the reason
    return status == 200 ? 0 : 1;
}
