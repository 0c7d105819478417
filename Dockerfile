FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# docker build --build-arg VERSION=1.2.3 --build-arg COMMIT=$(git rev-parse HEAD) .
ARG VERSION= COMMIT= DATE=
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w -X coordinator/internal/buildinfo.version=$VERSION -X coordinator/internal/buildinfo.commit=$COMMIT -X coordinator/internal/buildinfo.date=$DATE" -o /out/coordinator . && mkdir /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/coordinator /coordinator
COPY --from=build --chown=65532:65532 /out/data /data
ENV DATA_DIR=/data
VOLUME /data
USER 65532:65532
# Container engines of today let every user bind these (net.ipv4.ip_unprivileged_port_start=0). Where one does not,
# set HTTP_PORT and SSL_PORT to ports above 1023.
EXPOSE 80 443
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s CMD ["/coordinator", "-healthcheck"]
ENTRYPOINT ["/coordinator"]
