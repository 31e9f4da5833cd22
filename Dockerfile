# A static binary and nothing else.
FROM golang:1.26.8 AS build
ENV CGO_ENABLED=0
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY internal internal
COPY migrations migrations
RUN go build -trimpath -ldflags='-s -w' -o /out/ratelimitd ./cmd/ratelimitd && mkdir /out/data /out/bin && ln -s /usr/local/bin/ratelimitd /out/bin/ratelimit

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/ratelimitd /usr/local/bin/ratelimitd
# Called ratelimit it takes the place of envoyproxy/ratelimit: Envoy Gateway starts /bin/ratelimit.
COPY --from=build /out/bin /bin
# Limits file and state live here. A volume that is made from it belongs to the same user.
COPY --from=build --chown=65532:65532 /out/data /data
WORKDIR /data
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/usr/local/bin/ratelimitd"]
